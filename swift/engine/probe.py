"""Choice of the fast paths that a model can take, measured on the model itself before training begins.

Packing a group into one row and sharing a prompt's cache give right results only if the model treats masks, positions
and caches as assumed here. So a few random completions of two prompts are scored in four ways:

    alone     one row without padding, with the model's own positions and masks and all logits, by no code of ours
    plain     padded rows (`plain_layout`), chunked head
    packed    one row per group (`packed_layout`)
    sampled   token by token through the decoding loop, the cache of each prompt shared by its group

If plain disagrees with alone, the model cannot be trained here. The packed layout and the shared cache are used if
their results agree with plain.

The probe costs less than two scoring forwards of the run's first micro-batch. It runs the first layers of the decoder
alone, up to the second of each kind of attention, since all layers of a kind treat masks, positions and caches alike.
Phi-4 turns images into embeddings before any mask or cache counts, so its prompts are a few words. Other models lay
images out in positions and masks: their prompts have the run's images, shrunk to the smallest that the model takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from swift.engine.attention.choice import attend_by, decoder_attention, packing_attentions
from swift.engine.batch import Completions, PromptBatch, collate_prompts
from swift.engine.logprobs import completion_logprobs, why_plain
from swift.engine.long_groups import Passes, sliced_loss
from swift.engine.model_inputs import FULL, decoder_layers, token_types
from swift.engine.rollout.choosing import Sampling
from swift.engine.sampling import decode
from swift.llm.policy import decoder_layers_of, is_phi4
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.utils.errors import UserError
from swift.utils.lines import one_line
from swift.utils.logger import get_logger

logger = get_logger()

# Mean difference of log-probabilities, in nats, that rounding may cause in the plain path. The other paths may differ
# by four times the plain path's difference or by the floor, whichever is larger, but not by more than the tolerance. In
# half precision a wrong mask could hide below the tolerance alone.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
FLOORS = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 5e-3}
GRADIENT_TOLERANCES = {torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.1}  # relative to their mean size
MARGIN = 16  # tokens that a probe's prompt and completion may have beyond the prompt of the run
LENGTHS = (4, 2)  # tokens of each completion of a group
WORDS = (9, 14)  # tokens of the two prompts without images
LONGEST_WINDOW = 2048  # prompts are made longer than sliding windows up to this, so that the windows have an effect


@dataclass(frozen=True)
class Paths:
    """Fast paths that a model takes."""

    packed: bool  # completions are scored in packed rows
    shared: bool  # a group is sampled from one cache of its prompt
    compiled: bool = False  # its decode steps are compiled


class Forced:
    """A `Chooser` that takes the tokens of given completions ``ids`` [N, C] and keeps their log-probabilities."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.logps = torch.zeros(ids.shape, device=ids.device)

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The tokens [M], as `Chooser` says."""
        chosen = self.ids[rows, step]
        self.logps[rows, step] = logits.float().log_softmax(dim=-1).gather(1, chosen[:, None]).squeeze(1)
        return chosen


@torch.no_grad()
def choose_paths(
    model: nn.Module,
    template: Template,
    examples: Sequence[EncodedPrompt],
    compute: torch.dtype | None = None,
    *,
    compile_rollout: bool = False,
    attn_impl: str = "auto",
) -> Paths:
    """Measure the paths and choose, with one line in the log for each. The decoder uses from then on what packed rows
    take best among the kinds of attention that ``attn_impl`` allows.

    ``examples`` are prompts of the run, the first of them with an image if the run has images. ``compute`` is the type
    that the model computes in, if its weights are kept in another one. Compiled decode steps are measured if
    ``compile_rollout`` asks for them.

    Raises:
        UserError: the plain path is wrong for this model.
    """
    dtype = compute or model.dtype
    training = model.training
    model.eval()
    try:
        with first_layers(model):
            reason, unshared, uncompiled = _compare_paths(model, template, examples, dtype, compile_rollout, attn_impl)
    finally:
        model.train(training)
    packed = f"packed ({decoder_attention(model)})"
    logger.info("log-probabilities: %s", packed if reason is None else f"plain ({reason})")
    _log_unshared(unshared)
    return Paths(reason is None, unshared is None, compile_rollout and unshared is None and uncompiled is None)


def _plain(model: nn.Module, prompts: PromptBatch, completions: Completions) -> Tensor:
    """Log-probabilities of the plain path. Raises UserError if another model than Phi-4 fails on its own inputs."""
    try:
        return completion_logprobs(model, prompts, completions, packed=False).logps
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:  # from within transformers
        if is_phi4(model) or isinstance(error, (UserError, torch.OutOfMemoryError)):
            raise
        raise UserError(
            f"{type(model).__name__} fails on prompts of the run ({one_line(error)}); check that its processor files "
            "and weights belong together, or take another model"
        ) from error


def _compare_paths(
    model: nn.Module,
    template: Template,
    examples: Sequence[EncodedPrompt],
    dtype: torch.dtype,
    compile_rollout: bool,
    attn_impl: str,
) -> tuple[str | None, str | None, str | None]:
    """Reasons against packed rows, shared caches and compiled steps; None where there is none."""
    tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.float32])
    prompts, completions = probe_batch(model, template, examples)
    plain = _plain(model, prompts, completions)
    first = [row * len(LENGTHS) for row in range(len(prompts))]  # the longest completion of each prompt
    alone = torch.cat([_alone(model, prompts.select([place]), ids) for place, ids in _longest(completions)])
    if not (off := _distance(plain[first][completions.mask[first]], alone)) < tolerance:
        raise UserError(
            f"{type(model).__name__}: log-probabilities in padded rows differ from those in rows of their own by "
            f"{off:.2g} on average, so training would use wrong numbers; this model is not supported"
        )
    plain = plain[completions.mask]
    tolerance = min(tolerance, max(FLOORS.get(dtype, FLOORS[torch.float32]), 4 * off))
    reason = _take_attention(model, prompts, completions, plain, tolerance, attn_impl)
    unshared = _why_not("shared caches", lambda: _sampled(model, template, prompts, completions), plain, tolerance)
    uncompiled = None
    if compile_rollout and unshared is None:
        measure = partial(_sampled, model, template, prompts, completions, compiled=True)
        uncompiled = _why_not("compiled decode steps", measure, plain, tolerance)
        logger.info("rollout: decode steps are %s", f"not compiled ({uncompiled})" if uncompiled else "compiled")
    return reason, unshared, uncompiled


def _take_attention(
    model: nn.Module, prompts: PromptBatch, completions: Completions, plain: Tensor, tolerance: float, attn_impl: str
) -> str | None:
    """Let the decoder use the first attention under which packed rows agree with ``plain``. Returns the reason if there
    is none. The decoder then uses its own, which is tried last."""
    own, reason = decoder_attention(model), None
    measure = partial(_packed, model, prompts, completions)
    for name in packing_attentions(model, attn_impl, completions.ids.device):
        attend_by(model, name)
        reason = why_plain(model) or _why_not("packed rows", measure, plain, tolerance)
        if reason is None and name != own:
            reason = _why_not_backward(model, prompts, completions)
        if reason is None:
            return None
        if name != own:
            logger.info("%s is not used: %s", name, reason)
    return reason


def _why_not_backward(model: nn.Module, prompts: PromptBatch, completions: Completions) -> str | None:
    """Reason that gradients of packed rows cannot be used. They are measured at the first vector among the decoder's
    weights, so they have passed all layers."""
    vector = next(value for value in decoder_layers_of(model).parameters() if value.ndim == 1)
    trained = vector.requires_grad

    def gradient(packed: bool) -> Tensor:
        logps = completion_logprobs(model, prompts, completions, packed=packed).logps
        return torch.autograd.grad(logps.mean(), vector)[0].float()

    vector.requires_grad_(True)
    try:
        with torch.enable_grad():
            expected = gradient(packed=False)
            scale = expected.abs().mean()
            tolerance = GRADIENT_TOLERANCES.get(model.dtype, GRADIENT_TOLERANCES[torch.float32])
            return _why_not("gradients", lambda: gradient(packed=True) / scale, expected / scale, tolerance, "times")
    finally:
        vector.requires_grad_(trained)


@contextmanager
def first_layers(model: nn.Module) -> Iterator[None]:
    """Let the decoder of ``model`` have only its first layers within the block, up to the second of each kind."""
    decoder = model.get_decoder()
    layers, config = getattr(decoder, "layers", None), model.config.get_text_config()
    if not isinstance(layers, nn.ModuleList):
        yield
        return
    kinds = (getattr(config, "layer_types", None) or [FULL] * len(layers))[: len(layers)]
    seconds = [[place for place, name in enumerate(kinds) if name == kind][:2][-1] for kind in set(kinds)]
    decoder.layers = layers[: max(seconds) + 1]
    try:
        yield
    finally:
        decoder.layers = layers


@torch.no_grad()
def shares_cache(model: nn.Module, template: Template, examples: Sequence[EncodedPrompt]) -> bool:
    """True if completions may be decoded from one cache of their prompt, as measured on two of the ``examples``. One
    line in the log gives the reason if not."""
    prompts, completions = probe_batch(model, template, examples)
    nothing = torch.zeros(int(completions.mask.sum()), device=completions.ids.device)

    def difference() -> Tensor:
        plain = completion_logprobs(model, prompts, completions, packed=False).logps[completions.mask]
        return _sampled(model, template, prompts, completions) - plain

    tolerance = TOLERANCES.get(model.dtype, TOLERANCES[torch.float32])
    with first_layers(model):
        reason = _why_not("shared caches", difference, nothing, tolerance)
    _log_unshared(reason)
    return reason is None


def _log_unshared(reason: str | None) -> None:
    if reason is not None:
        logger.warning("rollout: slow, because each prompt is read once per completion (%s)", reason)


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


def _sampled(
    model: nn.Module, template: Template, prompts: PromptBatch, completions: Completions, compiled: bool = False
) -> Tensor:
    forced = Forced(completions.ids)
    no_stop = (model.config.get_text_config().vocab_size,)  # short completions are fed with their padding
    sampling = Sampling(completions.ids.shape[1], no_stop, template.pad_token_id, temperature=0)
    decode(model, prompts, len(LENGTHS), sampling, forced, compiled=compiled)
    return forced.logps[completions.mask]


def _why_not(
    name: str, measure: Callable[[], Tensor], expected: Tensor, tolerance: float, unit: str = "nats per token"
) -> str | None:
    """Reason not to take a path: its error, or its difference from ``expected``; None if it agrees."""
    try:
        off = _distance(measure(), expected)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        return f"{name} fail in this model: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return None if off < tolerance else f"{name} differ by {off:.2g} {unit}, over {tolerance:g}"


def _distance(measured: Tensor, expected: Tensor) -> float:
    """Mean absolute difference, infinite if any value is not finite."""
    difference = float((measured - expected).abs().mean())
    return difference if math.isfinite(difference) else math.inf
