"""Choice of the fast paths that a model can take, measured on the model itself before training begins.

Packing a group into one row and sharing a prompt's cache give right results only if the model treats masks, positions
and caches as assumed here. So a few random completions of two prompts are scored in four ways:

    alone     one row without padding, with the model's own positions and masks and all logits, by no code of ours
    plain     padded rows (`plain_layout`), chunked head
    packed    one row per group (`packed_layout`)
    sampled   token by token through `generate`, the cache of each prompt shared by its group

If plain disagrees with alone, the model cannot be trained here. The packed layout and the shared cache are used if
their results agree with plain.

The probe costs less than two scoring forwards of the run's first micro-batch. Phi-4 turns images into embeddings before
any mask or cache counts, so its prompts are a few words. Other models lay images out in positions and masks: their
prompts have the run's images, shrunk to the smallest that the model takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from swift.engine.batch import Completions, PromptBatch, collate_prompts
from swift.engine.logprobs import completion_logprobs, why_plain
from swift.engine.long_groups import Passes, sliced_loss
from swift.engine.model_inputs import decoder_layers, token_types
from swift.engine.sampling import Sampling, decode
from swift.llm.policy import is_phi4
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

# Mean difference of log-probabilities, in nats, that rounding may cause in the plain path. The other paths may differ
# by four times the plain path's difference or by the floor, whichever is larger, but not by more than the tolerance. In
# half precision a wrong mask could hide below the tolerance alone.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
FLOORS = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 5e-3}
MARGIN = 16  # tokens that a probe's prompt and completion may have beyond the prompt of the run
LENGTHS = (4, 2)  # tokens of each completion of a group
WORDS = (9, 14)  # tokens of the two prompts without images
LONGEST_WINDOW = 2048  # prompts are made longer than sliding windows up to this, so that the windows have an effect


@dataclass(frozen=True)
class Paths:
    """Fast paths that a model takes."""

    packed: bool  # completions are scored in packed rows
    shared: bool  # a group is sampled from one cache of its prompt


class Forced(LogitsProcessor):
    """Forces the tokens of given completions ``ids`` [N, C] during generation, and keeps their log-probabilities."""

    def __init__(self, ids: Tensor, prompt_width: int) -> None:
        self.ids, self.prompt_width = ids, prompt_width
        self.logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self.ids[:, input_ids.shape[1] - self.prompt_width, None]
        self.logps.append(scores.float().log_softmax(dim=-1).gather(1, chosen).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0)


@torch.no_grad()
def choose_paths(model: nn.Module, template: Template, examples: Sequence[EncodedPrompt]) -> Paths:
    """Measure the paths and choose, with one line in the log for each.

    ``examples`` are prompts of the run, the first of them with an image if the run has images.

    Raises:
        UserError: the plain path is wrong for this model.
    """
    tolerance = TOLERANCES.get(model.dtype, TOLERANCES[torch.float32])
    training = model.training
    model.eval()
    prompts, completions = probe_batch(model, template, examples)
    plain = completion_logprobs(model, prompts, completions, packed=False).logps
    first = [row * len(LENGTHS) for row in range(len(prompts))]  # the longest completion of each prompt
    alone = torch.cat([_alone(model, prompts.select([place]), ids) for place, ids in _longest(completions)])
    if not (off := _distance(plain[first][completions.mask[first]], alone)) < tolerance:
        raise UserError(
            f"{type(model).__name__}: log-probabilities in padded rows differ from those in rows of their own by "
            f"{off:.2g} on average, so training would use wrong numbers; this model is not supported"
        )
    plain = plain[completions.mask]
    tolerance = min(tolerance, max(FLOORS.get(model.dtype, FLOORS[torch.float32]), 4 * off))
    reason = why_plain(model) or _why_not("packed rows", lambda: _packed(model, prompts, completions), plain, tolerance)
    unshared = _why_not("shared caches", lambda: _sampled(model, template, prompts, completions), plain, tolerance)
    model.train(training)
    logger.info("log-probabilities: %s", "packed" if reason is None else f"plain ({reason})")
    if unshared is not None:
        logger.info("rollout: each prompt is prefilled once per completion (%s)", unshared)
    return Paths(reason is None, unshared is None)


@torch.no_grad()
def why_not_sliced(model: nn.Module, template: Template, examples: Sequence[EncodedPrompt]) -> str | None:
    """Reason that ``model`` cannot take long groups in slices; None if they agree with packed rows. Arguments are those
    of `choose_paths`."""
    training = model.training
    model.eval()
    prompts, completions = probe_batch(model, template, examples)
    expected = _packed(model, prompts, completions)
    passes = Passes(prompts.mask.shape[1] // 2, max(LENGTHS))

    def measure() -> Tensor:
        _, scores = sliced_loss(model, prompts, completions, passes, lambda _, scores: scores.logps.sum())
        return scores.logps[completions.mask]

    tolerance = FLOORS.get(model.dtype, FLOORS[torch.float32])
    reason = _why_not("slices", measure, expected, tolerance)
    model.train(training)
    return reason


def probe_batch(
    model: nn.Module, template: Template, examples: Sequence[EncodedPrompt]
) -> tuple[PromptBatch, Completions]:
    """Two prompts of different lengths, made longer than a sliding window, and random completions of both."""
    generator = torch.Generator().manual_seed(0)
    banned = torch.tensor([*template.banned_token_ids, *template.stop_token_ids])
    usable = torch.cat([prompt.input_ids for prompt in examples])
    usable = usable[~torch.isin(usable, banned)]
    usable = usable if len(usable) else torch.tensor([template.pad_token_id])

    def draw(count: int) -> Tensor:
        return usable[torch.randint(len(usable), (count,), generator=generator)]

    window = decoder_layers(model).window or 0
    window = window if window <= LONGEST_WINDOW else 0
    words_alone = [EncodedPrompt(draw(count), (), "") for count in WORDS]
    pair = words_alone if is_phi4(model) else [examples[0], examples[-1]]
    # LongRoPE models change the frequencies of all rows in a batch beyond this length. Both prompts stay on one side.
    rope_switch = getattr(model.config.get_text_config(), "original_max_position_embeddings", None) or math.inf
    if len({len(prompt.input_ids) + window + MARGIN > rope_switch for prompt in pair}) > 1:
        pair = [pair[0]] * 2
    prompts = [
        replace(prompt, input_ids=torch.cat([prompt.input_ids, draw(window + extra)]))
        for prompt, extra in zip(pair, (2, 7), strict=True)
    ]
    device = next(model.parameters()).device
    lengths = torch.tensor(LENGTHS * len(prompts))
    ids = torch.stack([draw(max(LENGTHS)) for _ in lengths])
    ids[torch.arange(max(LENGTHS)) >= lengths[:, None]] = template.pad_token_id
    completions = Completions(ids.to(device), lengths.to(device), torch.ones_like(lengths, dtype=torch.bool).to(device))
    return collate_prompts(prompts, template.pad_token_id, device), completions


def _longest(completions: Completions) -> list[tuple[int, list[int]]]:
    """The place of each prompt and the tokens of its longest completion."""
    return list(enumerate(completions.token_lists()[:: len(LENGTHS)]))


def _alone(model: nn.Module, prompt: PromptBatch, ids: list[int]) -> Tensor:
    """Log-probabilities of one completion, from one forward with as few arguments as possible."""
    chosen = torch.tensor(ids, device=prompt.input_ids.device)
    input_ids = torch.cat([prompt.input_ids, chosen[None]], dim=1)
    inputs = token_types(model, input_ids) | prompt.image_inputs()
    logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False, **inputs).logits
    logps = logits[0, -len(ids) - 1 : -1].float().log_softmax(dim=-1)
    return logps.gather(1, chosen[:, None]).squeeze(1)


def _packed(model: nn.Module, prompts: PromptBatch, completions: Completions) -> Tensor:
    return completion_logprobs(model, prompts, completions, packed=True).logps[completions.mask]


def _sampled(model: nn.Module, template: Template, prompts: PromptBatch, completions: Completions) -> Tensor:
    forced = Forced(completions.ids, prompts.input_ids.shape[1])
    no_stop = (model.config.get_text_config().vocab_size,)  # short completions are fed with their padding
    sampling = Sampling(completions.ids.shape[1], no_stop, template.pad_token_id, temperature=0)
    decode(model, prompts, len(LENGTHS), sampling, LogitsProcessorList([forced]), shared=True)
    return torch.stack(forced.logps, dim=1)[completions.mask]


def _why_not(name: str, measure: Callable[[], Tensor], expected: Tensor, tolerance: float) -> str | None:
    """Reason not to take a path: its error, or its difference from ``expected``; None if it agrees."""
    try:
        off = _distance(measure(), expected)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        return f"{name} fail in this model: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return None if off < tolerance else f"{name} differ by {off:.2g} nats per token, over {tolerance:g}"


def _distance(measured: Tensor, expected: Tensor) -> float:
    """Mean absolute difference, infinite if any value is not finite."""
    difference = float((measured - expected).abs().mean())
    return difference if math.isfinite(difference) else math.inf
