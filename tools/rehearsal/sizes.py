"""The sizes of a rehearsal: Phi-4-multimodal's published configuration, with fewer layers or other settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Phi4MultimodalConfig

from swift.llm.checkpoint.remote_config import native_config
from swift.llm.phi4_names import (
    ASSISTANT,
    AUDIO_TOKEN,
    END,
    END_ID,
    END_OF_TEXT,
    IMAGE_TOKEN,
    NATIVE_CLASS,
    REMOTE,
    USER,
    turn_token,
)
from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.lines import one_line

CONTROL_IDS = {
    END_OF_TEXT: 199999,
    IMAGE_TOKEN: 200010,
    AUDIO_TOKEN: 200011,
    ASSISTANT: 200019,
    END: END_ID,
    USER: 200021,
    turn_token("system"): 200022,
}
PUBLISHED_SIZES = {
    "vocab_size": 200064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
ROTARY_SHARE = 0.75  # of a head's entries


def rehearsal_config(layers: int | None = None, file: Path | None = None) -> Phi4MultimodalConfig:
    """The published configuration in the native form, with the settings of ``file`` and ``layers`` decoder layers.

    ``file`` is a config.json of either layout, or holds some settings of the native one. Raises UserError if it cannot
    be read, or if the vocabulary has no room for the control tokens.
    """
    stated = {} if file is None else read_json(file, "name a config.json, or leave --config out", what="--config")
    more = {} if layers is None else {"num_hidden_layers": layers}
    try:
        if stated.get("model_type") == REMOTE:
            stated = native_config(stated, {}, CONTROL_IDS)
        settings = PUBLISHED_SIZES | stated | more
        settings = {name: value for name, value in settings.items() if name not in ("model_type", "architectures")}
        config = Phi4MultimodalConfig(**{"rope_parameters": _rope(settings)} | settings)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"--config {file} does not describe a Phi-4-multimodal ({one_line(error)}); correct it"
        ) from error
    if config.vocab_size <= max(CONTROL_IDS.values()):
        raise UserError(
            f"--config {file}: vocab_size {config.vocab_size} must be above {max(CONTROL_IDS.values())}, because the "
            "control tokens keep their published ids"
        )
    config.architectures = [NATIVE_CLASS]
    return config


def _rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Longrope with factors of 1: the published factors change frequencies, not cost."""
    width = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    factors = [1.0] * (int(width * ROTARY_SHARE) // 2)
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": ROTARY_SHARE,
        "long_factor": factors,
        "short_factor": factors,
        "original_max_position_embeddings": settings["original_max_position_embeddings"],
    }
