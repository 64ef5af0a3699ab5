"""Folders of the neural models. Imports nothing heavy, so that looking for weights costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_RESULTS = ("", "result", "result1")
_TOKENIZER = "BiomedNLP"


class ModelFolders(NamedTuple):
    """The folders of both models, and that of the base tokenizer, for a model folder without a vocabulary."""

    entity: Path
    relation: Path
    tokenizer: Path


def find_models(root: str | Path) -> ModelFolders | None:
    """The models in ``root``: ``run_entity`` and ``run_relation`` in it, in its ``result`` or in its ``result1``. None
    if neither has weights. The base tokenizer is ``BiomedNLP`` in ``root``, or ``root`` itself.

    Raises:
        ValueError: only one of the two has weights; the message names the folder of the other.
    """
    root = Path(root)
    tokenizer = root / _TOKENIZER if (root / _TOKENIZER).is_dir() else root
    for result in _RESULTS:
        models = [root / result / name for name in ("run_entity", "run_relation")]
        ready = [any((model / name).is_file() for name in WEIGHT_FILES) for model in models]
        if all(ready):
            return ModelFolders(*models, tokenizer)
        if any(ready):
            ready_model, empty_model = models if ready[0] else reversed(models)
            raise ValueError(
                f"{ready_model} has weights but {empty_model} has none ({' or '.join(WEIGHT_FILES)}); both are needed"
            )
    return None
