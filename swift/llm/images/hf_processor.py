"""The image side of any model's own processor: one image in, its tensors and its text in the prompt out.

A transformers processor is built from the folder's tokenizer and its image processor. The latter runs on Pillow and
NumPy (``backend="pil"``), so torchvision is not needed. The processor's part for videos is left out.
"""

from __future__ import annotations

import functools
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
from transformers.processing_utils import ProcessorMixin

from swift.utils.errors import UserError
from swift.utils.lines import one_line

FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
)
TEXT_OUTPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")
WITH_CLASS_TOKEN = ("clip_vision_model",)  # vision towers that put one more token before those of the patches
# Packages that a processor requires when it is built, but uses for videos only.
FOR_VIDEOS = ("num2words",)


@dataclass(frozen=True)
class ProcessorImage:
    """One image, as the model takes it."""

    tensors: dict[str, Tensor]  # the model's image arguments for this image alone, first axis images or patches
    text: str  # its text in the prompt, with the image tokens

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, bytes."""
        return sum(value.nbytes for value in self.tensors.values())

    def to(self, device: torch.device | str) -> ProcessorImage:
        """The same image with its tensors on ``device``."""
        return ProcessorImage({name: value.to(device) for name, value in self.tensors.items()}, self.text)

    @staticmethod
    def collate(images: list[ProcessorImage]) -> dict[str, Tensor]:
        """The images' tensors joined along the first axis. Other axes (tiles, rows, columns) are padded with zeros."""
        return {name: _join([image.tensors[name] for image in images]) for name in images[0].tensors}


def _join(parts: list[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    if all(list(part.shape[1:]) == shape for part in parts):
        return torch.cat(parts)
    joined = parts[0].new_zeros(sum(map(len, parts)), *shape)
    start = 0
    for part in parts:
        joined[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
        start += len(part)
    return joined


class VisionProcessor:
    """Prepares images with a model's own processor, whose files are in ``folder``."""

    dynamic_hd: int | None = None  # a setting of Phi-4's tiling; other processors have settings of their own

    def __init__(self, processor: ProcessorMixin, folder: Path):
        self.processor, self.folder = processor, folder
        self.image_token: str | None = getattr(processor, "image_token", None)
        if self.image_token is None:
            raise UserError(
                f"{folder}: {type(processor).__name__} names no image token; this processor is not supported"
            )

    def __call__(self, image: Image.Image) -> ProcessorImage:
        """Prepare an RGB image. Raises UserError if the processor refuses it."""
        try:
            output = self.processor(
                images=[image], text=[self.image_token], return_tensors="pt", add_special_tokens=False
            )
        except ValueError as error:
            raise UserError(f"{type(self.processor).__name__} refuses the image ({error}); scale or crop it") from error
        except Exception as error:  # settings that are missing or of the wrong type fail anywhere in transformers
            raise UserError(
                f"{self.folder}: {type(self.processor).__name__} cannot prepare an image ({one_line(error)}); copy its "
                "processor_config.json and preprocessor_config.json again"
            ) from error
        text = self.processor.tokenizer.decode(output["input_ids"][0], clean_up_tokenization_spaces=False)
        return ProcessorImage({name: value for name, value in output.items() if name not in TEXT_OUTPUTS}, text)

    def __reduce__(self):
        return load_processor, (self.folder, self.processor.tokenizer)  # the processor's class is made at run time

    def count_tokens(self, width: int, height: int) -> int:
        """Tokens that an image of ``width`` x ``height`` pixels takes, measured on a black one."""
        return len(self.processor.tokenizer.encode(self.text_for(width, height), add_special_tokens=False))

    @functools.lru_cache(maxsize=1024)  # noqa: B019 -- lives as long as the policy
    def text_for(self, width: int, height: int) -> str:
        """The text in the prompt for an image of that size, in pixels."""
        return self(Image.new("RGB", (width, height))).text

    def save(self, folder: str | Path) -> Path:
        """Copy the processor's files into ``folder``. Training does not change them."""
        folder = Path(folder)
        for name in FILES:
            if (self.folder / name).is_file() and folder.resolve() != self.folder.resolve():
                shutil.copyfile(self.folder / name, folder / name)
        return folder


def load_processor(folder: Path, tokenizer: PreTrainedTokenizerBase) -> VisionProcessor:
    """The processor of the model in ``folder``, without its video part. Raises UserError if there is none or
    transformers cannot build it."""
    try:
        named = _processor_config(folder)
        kind = _processor_class(folder, named)
        parts = {
            "tokenizer": tokenizer,
            "image_processor": AutoImageProcessor.from_pretrained(
                folder, backend="pil", local_files_only=True, trust_remote_code=False
            ),
        }
        processor = _build(kind, parts, named)
        _fill_in(processor, named, AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except Exception as error:  # files of the wrong shape fail anywhere in transformers
        raise UserError(
            f"{folder}: its processor cannot be built ({one_line(error)}); copy all files of the model"
        ) from error
    return VisionProcessor(processor, folder)


def _processor_config(folder: Path) -> dict[str, Any]:
    try:
        return ProcessorMixin.get_processor_dict(folder, local_files_only=True)[0]
    except OSError:  # older folders name the class in the image processor's file or nowhere
        return {}


def _processor_class(folder: Path, named: dict[str, Any]) -> type[ProcessorMixin]:
    kind = processor_class_from_name(named["processor_class"]) if named.get("processor_class") else None
    kind = (
        kind
        or PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))]
    )
    if not issubclass(kind, ProcessorMixin):
        raise ValueError(f"{kind.__name__} takes no images")
    return kind


def _fill_in(processor: ProcessorMixin, named: dict[str, Any], config: PreTrainedConfig) -> None:
    """Take settings that a processor of LLaVA's kind needs and its files do not state from the model's configuration.
    Older folders have none of them."""
    vision = getattr(config, "vision_config", None)
    from_model = {
        "patch_size": getattr(vision, "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": int(getattr(vision, "model_type", None) in WITH_CLASS_TOKEN),
    }
    for name, value in from_model.items():
        if hasattr(processor, name) and named.get(name) is None and value is not None:
            setattr(processor, name, value)


def _build(kind: type[ProcessorMixin], parts: dict[str, Any], named: dict[str, Any]) -> ProcessorMixin:
    """An instance of ``kind`` with ``parts``. All its other parts are None."""
    module = sys.modules[kind.__module__]
    for name in FOR_VIDEOS:
        if hasattr(module, name) and getattr(module, name) is None:
            setattr(module, name, str)

    def check(self: ProcessorMixin, name: str, part: Any) -> Any:
        return None if part is None else kind.check_argument_for_proper_class(self, name, part)

    images_only = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    arguments = [parts.get(name) for name in kind.get_attributes()]
    settings = {name: value for name, value in named.items() if name not in kind.get_attributes()}
    return images_only.from_args_and_dict(arguments, settings)
