"""Reading a model's tokenizer, and refusing a tokenizer of another model."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from swift.utils.errors import UserError
from swift.utils.lines import one_line


def load_tokenizer(folder: Path, vocabulary: int, *, as_written: bool = True) -> PreTrainedTokenizerBase:
    """The folder's tokenizer. Raises UserError if it is damaged or has ids beyond the embedding's ``vocabulary`` rows.

    With ``as_written``, tokenizer.json alone decides, because the class that Microsoft's tokenizer_config.json names
    splits text differently. Without it, the class that the folder names reads the files.
    """
    try:
        plain = as_written and (folder / "tokenizer.json").exists()
        tokenizer = (PreTrainedTokenizerFast if plain else AutoTokenizer).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers package raises bare Exception
        raise UserError(f"{folder}: the tokenizer cannot be read ({one_line(error)}); copy its files again") from error
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has ids up to {highest}, the embedding {vocabulary} rows; "
            "take tokenizer and weights from one checkpoint"
        )
    return tokenizer
