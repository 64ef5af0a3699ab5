"""Names of Phi-4-multimodal's tensors in Microsoft's remote-code layout and in the native one. Pure functions.

    remote  model.layers.0.mlp.down_proj.base_layer.weight      native  model.layers.0.mlp.down_proj.weight
            model.layers.0.mlp.down_proj.lora_A.vision.weight           (vision-lora/) ...down_proj.lora_A.weight
            ...image_embed.img_projection.0.bias                        ...image_embed.img_projection_up.bias

Files saved between the two layouts are read as well: a name that is native already stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from swift.llm.phi4_names import AUDIO_EMBEDDING as AUDIO
from swift.llm.phi4_names import AUDIO_ENCODERS as ENCODERS
from swift.llm.phi4_names import IMAGE_EMBEDDING as IMAGE

PEFT_PREFIX = "base_model.model."  # in PEFT folders and in models saved from inside a PeftModel
RENAMED = (  # beginning of the name, part of it in the remote layout, the same part in the native one
    (IMAGE, ".img_projection.0.", ".img_projection_up."),
    (IMAGE, ".img_projection.2.", ".img_projection_down."),
    (IMAGE, ".glb_GN", ".global_img_feature_extensor"),
    (IMAGE, ".sub_GN", ".sub_img_feature_extensor"),
    (AUDIO, ".audio_projection.speech.0.", ".up_proj_for_speech."),
    (AUDIO, ".audio_projection.speech.2.", ".down_proj_for_speech."),
    (AUDIO, ".audio_projection.vision.0.", ".up_proj_for_vision_speech."),
    (AUDIO, ".audio_projection.vision.2.", ".down_proj_for_vision_speech."),
    (ENCODERS, ".feed_forward_in.net.0.linear.", ".feed_forward_in.gate_up_proj."),
    (ENCODERS, ".feed_forward_in.net.2.", ".feed_forward_in.down_proj."),
    (ENCODERS, ".feed_forward_out.net.0.linear.", ".feed_forward_out.gate_up_proj."),
    (ENCODERS, ".feed_forward_out.net.2.", ".feed_forward_out.down_proj."),
    (ENCODERS, ".self_attn.linear_q.", ".self_attn.q_proj."),
    (ENCODERS, ".self_attn.linear_k.", ".self_attn.k_proj."),
    (ENCODERS, ".self_attn.linear_v.", ".self_attn.v_proj."),
    (ENCODERS, ".self_attn.linear_out.", ".self_attn.o_proj."),
)
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<matrix>[AB])\.(?:(?P<adapter>\w+)\.)?weight")
_DERIVED = re.compile(r"(?:^|\.)(?:rotary_emb\.\w+|inv_freq|position_ids)$")


@dataclass(frozen=True)
class TensorName:
    """The parts of a stored name."""

    native: str  # without base_layer and without an adapter's name
    lora: bool = False
    adapter: str | None = None  # of a LoRA matrix, if the name contains it
    wrapped: bool = False  # the name contains base_layer: the weight had adapters around it when it was saved


def read_name(stored: str) -> TensorName:
    """Parse the name of a tensor stored in either layout or between them."""
    name = stored
    while name.startswith(PEFT_PREFIX):
        name = name.removeprefix(PEFT_PREFIX)
    if match := _LORA.fullmatch(name):
        return TensorName(f"{match['module']}.lora_{match['matrix']}.weight", lora=True, adapter=match["adapter"])
    wrapped = ".base_layer." in name
    name = name.replace(".base_layer.", ".")
    for beginning, remote, native in RENAMED:
        if name.startswith(beginning) and remote in name:
            return TensorName(name.replace(remote, native, 1), wrapped=wrapped)
    return TensorName(name, wrapped=wrapped)


def is_derived(native: str) -> bool:
    """True for a tensor that the model computes from its configuration, so that a stored copy is not needed."""
    return _DERIVED.search(native) is not None


def remote_name(native: str, adapted: frozenset[str] | set[str] = frozenset()) -> str:
    """The remote name of a weight. ``adapted`` are the modules that carry adapters."""
    for beginning, remote, renamed in RENAMED:
        if native.startswith(beginning) and renamed in native:
            return native.replace(renamed, remote, 1)
    module, _, leaf = native.rpartition(".")
    return f"{module}.base_layer.{leaf}" if module in adapted else native


def remote_lora_name(native: str, adapter: str) -> str:
    """The remote name of a LoRA matrix: ``...lora_A.weight`` -> ``...lora_A.vision.weight``. Models in memory use the
    same name."""
    return native.removesuffix(".weight") + f".{adapter}.weight"
