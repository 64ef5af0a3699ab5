"""Reading a model's tokenizer, and refusing one that is not the model's."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from swift.utils.errors import UserError, one_line


def load_tokenizer(folder: Path, vocabulary: int, *, as_written: bool = True) -> PreTrainedTokenizerBase:
    """The folder's tokenizer. Raises UserError where it is not whole or has ids beyond the embedding's ``vocabulary``.

    With ``as_written`` tokenizer.json is read as it stands: the class that Microsoft's tokenizer_config.json names
    splits text otherwise. Without it, it is read by the class that the folder names.
    """
    try:
        whole = as_written and (folder / "tokenizer.json").exists()
        tokenizer = (PreTrainedTokenizerFast if whole else AutoTokenizer).from_pretrained(
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
