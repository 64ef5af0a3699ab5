"""Words to the word-piece ids of a BERT vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from transformers import BertTokenizerFast

CACHED_WORDS = 65_536
_VOCABULARIES = ("vocab.txt", "tokenizer.json")


class WordPieces:
    """A BERT tokenizer that takes one word at a time, as the PURE models were trained.

    ``cls``, ``sep`` and ``pad`` are ids; ``vocabulary`` maps entries, added ones included, to ids.
    """

    def __init__(self, tokenizer: BertTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.cls, self.sep, self.pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        self.unknown: int = tokenizer.unk_token_id
        self._cached = lru_cache(maxsize=CACHED_WORDS)(self._encode)

    @classmethod
    def read(cls, folders: Sequence[str | Path], entries: int) -> WordPieces:
        """The tokenizer of the first folder that has one, for a model with this number of vocabulary ``entries``.

        Raises:
            ValueError: no folder has one, it cannot be read, or it has more entries than the model.
        """
        for folder in folders:
            if any((Path(folder) / name).is_file() for name in _VOCABULARIES):
                try:
                    pieces = cls(BertTokenizerFast.from_pretrained(str(folder), local_files_only=True))
                except (OSError, ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{folder}: its tokenizer cannot be read ({error})") from error
                if max(pieces.vocabulary.values()) >= entries:
                    raise ValueError(
                        f"{folder}: its tokenizer has {len(pieces.vocabulary)} entries but the model {entries};"
                        " use the vocab.txt that belongs to the model"
                    )
                return pieces
        places = ", ".join(map(str, folders))
        raise ValueError(f"no vocab.txt in {places}; put the vocab.txt of the base model (BiomedNLP) there")

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files, and the vocab.txt that PURE reads."""
        self._tokenizer.save_pretrained(str(folder))
        entries = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        (Path(folder) / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")

    def __call__(self, word: str) -> list[int]:
        """The ids of one word, at least one. A word that gives no pieces, such as a control character, is unknown."""
        return self._cached(word)

    def _encode(self, word: str) -> list[int]:
        return self._tokenizer.backend_tokenizer.encode(word, add_special_tokens=False).ids or [self.unknown]
