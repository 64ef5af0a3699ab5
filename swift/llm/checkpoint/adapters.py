"""LoRA adapters of a policy: read from PEFT folders, installed in the model, written as PEFT folders.

In the model a tensor is called `model.layers.0.self_attn.qkv_proj.lora_A.vision.weight`. On disk, PEFT's convention
adds `base_model.model.` in front and leaves the adapter's name out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from swift.llm.checkpoint.remote_names import PEFT_PREFIX, read_name, remote_lora_name
from swift.llm.checkpoint.stored_tensors import Stored, copy_tensors, list_tensors
from swift.llm.phi4_names import DECODER_LINEARS
from swift.utils.errors import UserError
from swift.utils.files import read_json, replacing, write_json
from swift.utils.lines import one_line
from utils.freezing import untie_head

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"  # fingerprint of the weights below the adapter (base_weights.py)
FOLDERS = {"vision": "vision-lora", "speech": "speech-lora"}  # in a full checkpoint, by the adapter's name
HEAD_WEIGHT = "lm_head.weight"
PLAIN_LORA = "only plain LoRA adapters of one rank and alpha are supported"


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter on disk."""

    config: LoraConfig
    tensors: dict[str, Stored]  # by native name, without the adapter's: "...down_proj.lora_A.weight"
    folder: Path  # for messages
    head: Stored | None = None  # a trained output head, which replaces the model's


def add_vision_adapter(
    model: nn.Module, rank: int, alpha: int, targets: str = DECODER_LINEARS, dropout: float = 0.0
) -> None:
    """Put a new vision LoRA on the decoder's linear layers whose whole names match the regular expression ``targets``.

    Its B matrices are small random numbers, because on disk a B of zeros is the sign of a lost adapter.
    """
    model.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=dropout), adapter_name="vision"
    )
    for name, parameter in model.named_parameters():
        if ".lora_B.vision." in name:
            nn.init.normal_(parameter, std=0.01)


def read_adapter(folder: Path) -> Adapter:
    """The adapter of a PEFT folder; only headers of its weights are read. Raises UserError if the folder is damaged or
    holds another kind of adapter than LoRA."""
    settings = read_json(folder / CONFIG, "copy the folder again")
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except Exception as error:  # values of the wrong type fail anywhere in PEFT
        raise UserError(f"{folder / CONFIG} is not the configuration of a LoRA adapter ({one_line(error)})") from error
    if settings.get("peft_type") not in (None, "LORA") or config.use_dora:
        raise UserError(f"{folder / CONFIG}: {PLAIN_LORA}")
    config.modules_to_save = None
    tensors: dict[str, Stored] = {}
    for key, stored in list_tensors([_weights_file(folder)]).items():
        name = read_name(key).native
        if name in tensors:
            raise UserError(f"{stored.file}: {key} and {tensors[name].key} name one tensor; save the adapter again")
        tensors[name] = stored
    head = tensors.pop(HEAD_WEIGHT, None)
    _refuse_whole_weights(tensors, folder)
    return Adapter(config, tensors, folder, head)


def _refuse_whole_weights(tensors: dict[str, Stored], folder: Path) -> None:
    """Raise UserError for an adapter that also replaces weights of its base, or adapts its embedding, apart from the
    output head."""
    whole = sorted(name for name in tensors if ".lora_A." not in name and ".lora_B." not in name)
    if whole:
        more = f" and {len(whole) - 1} more" if len(whole) > 1 else ""
        raise UserError(
            f"{folder}: beside its LoRA matrices the adapter has {whole[0]}{more}; adapters of embeddings and whole "
            "layers are not supported: merge it into a full checkpoint, or save it with save_embedding_layers=False"
        )


def add_adapter(model: nn.Module, adapter: Adapter, name: str) -> None:
    """Add the adapter's layers to ``model`` as ``name``, without its values. Raises UserError if they do not fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are intended
        try:
            model.add_adapter(adapter.config, adapter_name=name)
        except Exception as error:  # values of the wrong type fail anywhere in PEFT
            raise UserError(
                f"{adapter.folder}: the configuration of its {name} adapter does not fit the model "
                f"({one_line(error)}); copy the folder again"
            ) from error


def fill_adapter(model: nn.Module, adapter: Adapter, name: str) -> None:
    """Copy the adapter's tensors, and its head if it has one, into the model's adapter ``name``. Raises UserError as
    :func:`match_adapter` does."""
    matched = match_adapter(model, adapter, name)
    parameters = dict(model.named_parameters())
    copy_tensors((stored, parameters[key].data) for key, stored in matched.items())


def match_adapter(model: nn.Module, adapter: Adapter, name: str) -> dict[str, Stored]:
    """The adapter's tensors, and its head if it has one, by their parameters' names in the model's adapter ``name``. A
    tied head is untied for a head of its own. Raises UserError if a tensor of either has no counterpart of its shape in
    the other."""
    file = _weights_file(adapter.folder)
    tensors = {remote_lora_name(key, name): stored for key, stored in adapter.tensors.items()}
    if adapter.head is not None:
        untie_head(model)
        tensors[HEAD_WEIGHT] = adapter.head
    parameters = dict(model.named_parameters())
    wanted = {key for key in parameters if f".{name}." in key} | ({HEAD_WEIGHT} & tensors.keys())
    if wanted != tensors.keys():
        raise UserError(
            f"{file}: {len(wanted - tensors.keys())} tensors missing and {len(tensors.keys() - wanted)} without a "
            f"place, e.g. {min(wanted ^ tensors.keys())}; the adapter belongs to another base"
        )
    for key, stored in tensors.items():
        shape = getattr(parameters[key], "ds_shape", parameters[key].shape)  # DeepSpeed empties divided parameters
        if shape != stored.shape:
            raise UserError(
                f"{file}: {key} has shape {stored.shape}, the model's {tuple(shape)}; "
                "the adapter belongs to another base"
            )
    return tensors


def save_adapter(
    model: nn.Module, folder: Path, name: str, state: dict[str, Tensor], base: Path, with_head: bool
) -> None:
    """Write adapter ``name`` from ``state`` as a PEFT folder on ``base``.

    A trained head is written as one of PEFT's `modules_to_save`, so that ``PeftModel.from_pretrained`` restores it too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        PEFT_PREFIX + key.replace(f".{name}.", "."): value.detach().cpu().contiguous()
        for key, value in state.items()
        if f".lora_A.{name}." in key or f".lora_B.{name}." in key
    }
    if with_head:
        tensors[PEFT_PREFIX + HEAD_WEIGHT] = state[HEAD_WEIGHT].detach().cpu().contiguous()
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_adapter_config(
        folder,
        model.peft_config[name],
        base_model_name_or_path=str(base.resolve()),
        modules_to_save=["lm_head"] if with_head else None,
    )


def write_adapter_config(folder: Path, config: LoraConfig, **changes: object) -> None:
    """Write adapter_config.json of an adapter that is for use, with ``changes`` to its settings."""
    settings = config.to_dict() | {"inference_mode": True} | changes
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    write_json(folder / CONFIG, plain)


def _weights_file(folder: Path) -> Path:
    pickled = folder / "adapter_model.bin"
    return pickled if pickled.exists() and not (folder / WEIGHTS).exists() else folder / WEIGHTS
