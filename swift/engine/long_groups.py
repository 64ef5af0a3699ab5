"""Loss and gradients of groups that are too long for one packed row.

The keys and values of a prompt are all that its completions see of it. So the prompt is computed in sections and its
completions in slices, and only one section and one slice keep their activations at a time:

1. Compute the sections in order and keep their keys and values. The last section keeps its activations too.
2. Compute a slice of completions on these, take its loss, and propagate back to the weights and to the prompt's keys
   and values, whose gradients are summed over the slices.
3. Propagate these sums back through the sections, the last one first. Earlier sections are computed a second time.
   They pass gradients on to the keys and values before them.

A prompt of one section is computed once. Loss and gradients are those of the packed row up to the order of summation.
Scheduling passes around a shared prompt is an idea of arXiv 2606.01143.

The last token of the prompt stands at the head of every completion, as in decoding, so the first token of a completion
is predicted within its slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from swift.engine.attention.masks import row_masks
from swift.engine.batch import Completions, PromptBatch
from swift.engine.chunked_head import HeadCall, scoring_head
from swift.engine.logprobs import LogProbs, scatter
from swift.engine.model_inputs import next_positions, prompt_positions, token_types
from swift.engine.packing import PROMPT, PackedRows, group_size
from swift.llm.policy import input_embeddings, output_head
from swift.utils.stages import count_work, staged

KeysAndValues = list[Tensor]  # keys and values of layer 0, then of layer 1 and so on, each [1, heads, tokens, width]
SliceLoss = Callable[[slice, LogProbs], Tensor]  # completions [n of N] and their scores -> a sum over them, a scalar


@dataclass(frozen=True)
class Passes:
    """The largest number of tokens in a section of a prompt and in a slice of completions. A slice has at least one
    completion."""

    prompt_tokens: int
    completion_tokens: int

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.completion_tokens) < 1:
            raise ValueError(f"passes of {self.prompt_tokens} and {self.completion_tokens} tokens; give 1 or more")

    def sections(self, width: int) -> list[slice]:
        """Successive columns of a prompt of ``width`` tokens."""
        return [slice(start, min(start + self.prompt_tokens, width)) for start in range(0, width, self.prompt_tokens)]

    def slices(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Successive completions of these lengths, as many at a time as fit."""
        start = tokens = 0
        for index, length in enumerate(lengths):
            if index > start and tokens + length > self.completion_tokens:
                yield slice(start, index)
                start, tokens = index, 0
            tokens += length
        yield slice(start, len(lengths))


@dataclass
class Gradients:
    """Sums of gradients, in the order of ``parameters``. A parameter that took no part has None."""

    parameters: list[nn.Parameter]
    values: list[Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        self.values = [None] * len(self.parameters)

    @staged("backward")
    def propagate(
        self, outputs: Sequence[Tensor], wanted: Sequence[Tensor] | None, leaves: KeysAndValues, sums: Sequence[Tensor]
    ) -> None:
        """Propagate the gradients ``wanted`` (1 by default) of ``outputs`` back. Those of ``leaves`` are added to
        ``sums``, tensor by tensor."""
        inputs = [*self.parameters, *leaves]
        found = list(torch.autograd.grad(list(outputs), inputs, wanted, allow_unused=True))
        for index in range(len(found)):
            value, found[index] = found[index], None
            if value is None:
                continue
            if index >= len(self.values):
                sums[index - len(self.values)].add_(value)
            elif self.values[index] is None:
                self.values[index] = value.clone()  # it may share memory with another one
            else:
                self.values[index].add_(value)


class PromptSoFar(DynamicCache):
    """The keys and values before a pass, all of which its tokens may attend to, and those that the pass adds."""

    def __init__(self, before: KeysAndValues) -> None:
        super().__init__()
        self.before = before
        self.added: KeysAndValues = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_args: object, **_kwargs: object) -> tuple:
        """Note what the layer adds, and return all that it may attend to. Raises ValueError if layers share keys."""
        if 2 * layer_idx != len(self.added):
            raise ValueError(f"layer {layer_idx} is not the next one to add keys and values")
        self.added += [keys, values]
        if not self.before:
            return keys, values
        before = self.before[2 * layer_idx : 2 * layer_idx + 2]
        return tuple(torch.cat(pair, dim=-2) for pair in zip(before, (keys, values), strict=True))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens before the pass."""
        return self.before[2 * layer_idx].shape[-2] if self.before else 0


class _Returned(torch.autograd.Function):
    """A loss whose gradients are known already. They reach the parameters in the usual way and once each, so that the
    hooks of data-parallel training see nothing unusual."""

    @staticmethod
    def forward(ctx, loss, gradients, *_parameters):
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, grad_loss):
        gradients, ctx.gradients = ctx.gradients, []
        return None, None, *(None if value is None else value.mul_(grad_loss) for value in gradients)


def sliced_loss(
    model: nn.Module,
    prompts: PromptBatch,
    completions: Completions,
    passes: Passes,
    slice_loss: SliceLoss,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[Tensor, LogProbs]:
    """The sum of ``slice_loss`` over all completions (N = B * G, groups adjacent), and their scores without gradient.

    ``slice_loss`` must be a sum over completions in which a completion's part depends on its own scores alone.
    ``model`` may be wrapped for data parallelism. If gradients are enabled, they are computed here, and the
    ``backward`` of the result, which may be called once, hands them to the parameters.
    """
    core = getattr(model, "module", model)
    size = group_size(prompts, completions)
    sums = Gradients([parameter for parameter in core.parameters() if parameter.requires_grad])
    done: list[tuple[Tensor, LogProbs]] = []
    forward = core.forward

    def work(**_inputs: Tensor) -> Tensor:
        for place in range(len(prompts)):
            group = _Group(core, forward, prompts.select([place]), passes, temperature, with_entropy)
            done.extend(group.propagate(completions, slice(place * size, (place + 1) * size), slice_loss, sums))
        total = torch.stack([loss for loss, _ in done]).sum()
        return _Returned.apply(total, sums.values, *sums.parameters) if torch.is_grad_enabled() else total

    with _forward_replaced(core, work), _without_checkpointing(core):
        loss = model(input_ids=prompts.input_ids)
    width = completions.ids.shape[1]
    entropy = torch.cat([_widened(scores.entropy, width) for _, scores in done]) if with_entropy else None
    return loss, LogProbs(torch.cat([_widened(scores.logps, width) for _, scores in done]), entropy)


class _Group:
    """One prompt, and the passes over its sections and over slices of its completions."""

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[..., object],
        prompt: PromptBatch,
        passes: Passes,
        temperature: float,
        with_entropy: bool,
    ) -> None:
        self.model, self.forward, self.prompt, self.passes = model, forward, prompt, passes
        self.temperature, self.with_entropy = temperature, with_entropy
        self.images = prompt.image_inputs()
        self.positions = prompt_positions(model, prompt.input_ids, prompt.order, prompt.mask, self.images)
        self.width = prompt.input_ids.shape[1] - 1  # the last token belongs to the completions
        # Images are laid out whole. Only embeddings that are known already can be cut.
        whole = Passes(max(1, self.width), passes.completion_tokens)
        self.sections = (whole if prompt.embeds is None else passes).sections(self.width)

    def propagate(
        self, completions: Completions, rows: slice, slice_loss: SliceLoss, gradients: Gradients
    ) -> Iterator[tuple[Tensor, LogProbs]]:
        """Yield the loss and the scores of one slice after the other, without gradient. If gradients are enabled, those
        of ``slice_loss`` are added to ``gradients``."""
        shared: KeysAndValues = []
        leaves: KeysAndValues = []
        kept: KeysAndValues = []
        for section in self.sections:
            with torch.set_grad_enabled(torch.is_grad_enabled() and section == self.sections[-1]):
                leaves, kept = self._read(section, shared)
            shared = _joined(shared, kept)
        sums = [torch.zeros_like(value, dtype=torch.float32) for value in shared]
        for part in self.passes.slices(completions.lengths[rows].tolist()):
            own = slice(rows.start + part.start, rows.start + part.stop)
            prefix = _leaves(shared)
            scores = self._score(completions.select(range(own.start, own.stop)), prefix)
            loss = slice_loss(own, scores)
            if torch.is_grad_enabled():
                gradients.propagate([loss], None, prefix, sums)
            entropy = None if scores.entropy is None else scores.entropy.detach()
            yield loss.detach(), LogProbs(scores.logps.detach(), entropy)
        if not torch.is_grad_enabled():
            return
        for section in reversed(self.sections):
            if section != self.sections[-1]:
                leaves, kept = self._read(section, [value[..., : section.start, :] for value in shared])
            wanted = [total[..., section, :].to(value.dtype) for total, value in zip(sums, kept, strict=True)]
            gradients.propagate(kept, wanted, leaves, [total[..., : section.start, :] for total in sums])

    def _read(self, section: slice, before: KeysAndValues) -> tuple[KeysAndValues, KeysAndValues]:
        """Compute a section of the prompt on the keys and values ``before`` it. Returns these as leaves of the graph,
        and those of the section.

        The prompt's last token follows each section. Its keys and values are dropped, but by its position a model with
        longrope knows the length of the prompt.
        """
        leaves = _leaves(before)
        prompt, count, last = self.prompt, section.stop - section.start, slice(self.width, None)
        positions, order = (
            torch.cat([values[..., columns], values[..., last]], dim=-1)
            for values, columns in ((self.positions, section), (prompt.order, slice(0, section.stop)))
        )
        if prompt.embeds is None:
            inputs = {"input_ids": prompt.input_ids, **token_types(self.model, prompt.input_ids), **self.images}
        else:
            inputs = {"inputs_embeds": torch.cat([prompt.embeds[:, section], prompt.embeds[:, last]], dim=1)}
        rows = PackedRows(torch.full_like(order, PROMPT), order, count + 1)
        cache = self._run(inputs, leaves, rows, positions, keep=1)[1]
        return leaves, [value[..., :-1, :] for value in cache.added]

    def _score(self, completions: Completions, prefix: KeysAndValues) -> LogProbs:
        """Score completions of this prompt in one row, ``prefix`` being the keys and values of the prompt."""
        prompt, device = self.prompt, completions.ids.device
        targets = completions.ids[completions.mask]
        completion_of, step = completions.mask.nonzero(as_tuple=True)
        row = torch.where(step == 0, prompt.input_ids[0, -1], targets.roll(1))[None]
        following = next_positions(self.positions, prompt.mask)[:, None] + step - 1
        positions = torch.where(step == 0, self.positions[..., -1:], following)
        order = torch.cat([prompt.order[:, : self.width], self.width + step[None]], dim=1)
        call = HeadCall(torch.arange(len(step), device=device), targets, self.temperature, self.with_entropy)
        if prompt.embeds is None:
            inputs = {"input_ids": row, **token_types(self.model, row)}
        else:
            embeds = input_embeddings(self.model)(row).to(prompt.embeds.dtype)
            inputs = {"inputs_embeds": torch.where((step == 0)[None, :, None], prompt.embeds[:, -1:], embeds)}
        segments = torch.cat([torch.full_like(order[:, : self.width], PROMPT), completion_of[None] + 1], dim=1)
        with scoring_head(output_head(self.model), call):
            flat = self._run(inputs, prefix, PackedRows(segments, order, len(step)), positions)[0]
        entropy = None if call.entropy is None else scatter(call.entropy, completions.mask)
        return LogProbs(scatter(flat, completions.mask), entropy)

    def _run(
        self,
        inputs: dict[str, Tensor],
        before: KeysAndValues,
        rows: PackedRows,
        positions: Tensor,
        keep: int = 0,
    ) -> tuple[Tensor, PromptSoFar]:
        """The head's output and the keys and values of one pass. ``rows`` is one row, whose first keys are those
        ``before``. The head reads the last ``keep`` tokens, by default all."""
        prompt_ids = self.prompt.input_ids[:, : min(self.width, rows.segments.shape[1])]
        count_work(rows.queries, keep or rows.queries)
        cache = PromptSoFar(before)
        output = self.forward(
            **inputs,
            attention_mask=row_masks(self.model, rows, prompt_ids),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits, cache


def _leaves(values: KeysAndValues) -> KeysAndValues:
    return [value.detach().requires_grad_() for value in values]


def _joined(before: KeysAndValues, added: KeysAndValues) -> KeysAndValues:
    added = [value.detach() for value in added]
    return [torch.cat(pair, dim=-2) for pair in zip(before, added, strict=True)] if before else added


def _widened(values: Tensor, width: int) -> Tensor:
    return nn.functional.pad(values, (0, width - values.shape[1]))


@contextmanager
def _forward_replaced(model: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    """Let ``model`` compute ``forward`` within the block. A wrapper for data parallelism sees one call and one loss."""
    own = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


@contextmanager
def _without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Switch gradient checkpointing off within the block: under it, layers take no keys and values of earlier ones."""
    switched = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in switched:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in switched:
            module.gradient_checkpointing = True
