"""The template that goes with a policy: records in, token ids out, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from swift.llm.dataset import Record
from swift.llm.images.cache import DECODING_THREADS
from swift.llm.policy import Policy, is_phi4, rope_switch
from swift.llm.template.hf import ProcessorTemplate
from swift.llm.template.phi4 import EncodedPrompt, Phi4Template

PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")


class Template(Protocol):
    """What training and evaluation ask of a template; see `Phi4Template` for each call."""

    stop_token_ids: tuple[int, ...]
    banned_token_ids: tuple[int, ...]
    pad_token_id: int
    image_processor: Any

    def encode_prompt(self, record: Record) -> EncodedPrompt: ...

    def encode_prompts(self, records: Sequence[Record]) -> list[EncodedPrompt]: ...

    def prefetch(self, records: Iterable[Record]) -> None: ...

    def check_prompts(self, records: Iterable[Record]) -> None: ...

    def encode_completion(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int] | Tensor) -> str: ...

    def decode_tokens(self, ids: Sequence[int] | Tensor) -> list[str]: ...


def template_for(
    policy: Policy, max_length: int | None = None, new_tokens: int = 0, decoding_threads: int = DECODING_THREADS
) -> Template:
    """Phi-4's template, or for any other model one made of its own processor and chat template. ``new_tokens`` is the
    most that will be generated after a prompt; ``decoding_threads`` decode announced images, of Phi-4 alone."""
    model = policy.model
    if is_phi4(model):
        image_token = model.config.vision_config.image_token_id
        return Phi4Template(
            policy.tokenizer,
            policy.image_processor,
            image_token,
            max_length,
            decoding_threads=decoding_threads,
            rope_switch=rope_switch(model),
            new_tokens=new_tokens,
            stop_token_ids=_stops(model),
        )
    banned = [getattr(model.config, name, None) for name in PLACEHOLDERS]
    return ProcessorTemplate(
        policy.tokenizer,
        policy.image_processor,
        _stops(model),
        [token for token in banned if token is not None],
        max_length,
    )


def _stops(model: nn.Module) -> list[int]:
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
