"""Small BERTs with random weights and a vocabulary of their own, to train on without a download."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from ReXKG.neural.annotations import AnnotatedSentence
from ReXKG.neural.checkpoint import save_json, save_model

# At the positions of BERT's own vocabularies. Relation markers are taken from the unused entries.
_SPECIAL = ("[PAD]", *(f"[unused{number}]" for number in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# BERT cuts words at every character that is neither letter nor digit before it looks for pieces.
_UNIT = re.compile(r"[^\W_]+|[^\w\s]|_")


def write_encoder(
    folder: str | Path,
    sentences: Sequence[AnnotatedSentence],
    hidden_size: int = 128,
    layers: int = 2,
    heads: int = 4,
    vocabulary: int = 2000,
    seed: int = 0,
) -> None:
    """Write config.json, vocab.txt and model.safetensors. The same arguments give the same files.

    Raises:
        ValueError: ``heads`` does not divide ``hidden_size``.
    """
    folder = Path(folder)
    entries = [*_SPECIAL, *_pieces((word for sentence in sentences for word in sentence.words), vocabulary)]
    config = BertConfig(
        vocab_size=len(entries),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
    )
    torch.manual_seed(seed)
    model = BertModel(config, add_pooling_layer=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_json(config.to_dict(), folder / "config.json")
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    save_model(model, folder)


def _pieces(words: Iterable[str], count: int) -> list[str]:
    """Every character that occurs, as the beginning of a word and as its continuation, then the most frequent words, up
    to ``count`` pieces in all. Characters are never left out."""
    counts = Counter(unit for word in words for unit in _UNIT.findall(word.lower()))
    characters = sorted(set("".join(counts)))
    letters = [*characters, *(f"##{character}" for character in characters)]
    whole = sorted((unit for unit in counts if len(unit) > 1), key=lambda unit: (-counts[unit], unit))
    return letters + whole[: max(0, count - len(letters))]
