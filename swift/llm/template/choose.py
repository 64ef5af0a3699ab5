"""The template of a policy: Phi-4's own, or one made of another model's processor and chat template."""

from __future__ import annotations

from torch import nn

from swift.llm.images.cache import DECODING_THREADS
from swift.llm.policy import Policy, context_window, is_phi4, rope_switch
from swift.llm.template.hf import ProcessorTemplate
from swift.llm.template.phi4 import Phi4Template
from swift.llm.template.protocol import Template
from swift.utils.errors import UserError

PLACEHOLDER_SETTINGS = ("image_token_id", "video_token_id", "audio_token_id")


def template_for(
    policy: Policy,
    max_length: int | None = None,
    new_tokens: int = 0,
    decoding_threads: int = DECODING_THREADS,
    response_prefix: str | None = None,
) -> Template:
    """The template for the policy's model.

    Args:
        max_length: most tokens a prompt may have; None for no limit.
        new_tokens: most tokens that will be generated after a prompt.
        decoding_threads: threads that decode announced images; Phi-4 only.
        response_prefix: text that every completion begins with, and that is not sampled.

    Raises UserError if so many new tokens are more than the model can read.
    """
    model = policy.model
    window = context_window(model)
    if window is not None and new_tokens >= window:
        raise UserError(
            f"an answer of {new_tokens} tokens is more than the {window} that the model can read; lower "
            "--max_completion_length or --max_new_tokens"
        )
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
            response_prefix=response_prefix or "",
            window=window,
        )
    banned = [getattr(model.config, name, None) for name in PLACEHOLDER_SETTINGS]
    return ProcessorTemplate(
        policy.tokenizer,
        policy.image_processor,
        _stops(model),
        [token for token in banned if token is not None],
        max_length,
        response_prefix=response_prefix or "",
        window=window,
        new_tokens=new_tokens,
    )


def _stops(model: nn.Module) -> list[int]:
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
