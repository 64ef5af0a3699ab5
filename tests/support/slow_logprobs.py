"""Log-probabilities and attention computed the slow, obvious way, to test the fast ways against."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from swift.engine.attention.varlen import PartCall
from swift.engine.batch import Completions, PromptBatch


def logps_one_by_one(
    model: torch.nn.Module, prompts: PromptBatch, completions: Completions, temperature: float
) -> torch.Tensor:
    """Log-probabilities [N, C] from one unpadded forward per completion, full logits and log_softmax.

    Positions after the end of a completion are 0.
    """
    size = len(completions) // len(prompts)
    rows = []
    for index, ids in enumerate(completions.token_lists()):
        prompt = prompts.select([index // size])
        text = prompt.input_ids[prompt.mask][None]
        logits = model(torch.cat([text, torch.tensor([ids])], dim=1), **prompt.image_inputs()).logits
        logps = (logits[0, text.shape[1] - 1 : -1] / temperature).log_softmax(dim=-1)
        chosen = logps[torch.arange(len(ids)), torch.tensor(ids)]
        rows.append(torch.nn.functional.pad(chosen, (0, completions.ids.shape[1] - len(ids))))
    return torch.stack(rows)


class SlowKernel:
    """A `VarlenKernel` for every device and type. Its gradients trust the given result and log-sum-exp, as those of
    flash attention do."""

    def attend(self, call: PartCall) -> tuple[Tensor, Tensor]:
        results, logsums = [], []
        for _, _, scores, value in self._sequences(call):
            logsums.append(scores.logsumexp(dim=-1))
            results.append(torch.einsum("hqk,khd->qhd", (scores - logsums[-1][..., None]).exp(), value))
        return torch.cat(results), torch.cat(logsums, dim=1)

    def gradients(self, call: PartCall, grad: Tensor, result: Tensor, logsum: Tensor) -> tuple[Tensor, ...]:
        totals = [torch.zeros_like(tensor) for tensor in (call.query, call.keys, call.values)]
        repeats = call.query.shape[1] // call.keys.shape[1]
        for own, other, scores, value in self._sequences(call):
            weights = (scores - logsum[:, own, None]).exp()
            slope = torch.einsum("qhd,khd->hqk", grad[own], value)
            slope = weights * (slope - (grad[own] * result[own]).sum(dim=-1).t()[..., None]) * call.scale
            totals[0][own] = torch.einsum("hqk,khd->qhd", slope, call.keys[other].repeat_interleave(repeats, dim=1))
            for total, share in (
                (totals[1], torch.einsum("hqk,qhd->khd", slope, call.query[own])),
                (totals[2], torch.einsum("hqk,qhd->khd", weights, grad[own])),
            ):
                total[other] = share.unflatten(1, (-1, repeats)).sum(dim=2)
        return tuple(totals)

    @staticmethod
    def _sequences(call: PartCall) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Places of queries and of keys, scores [query heads, queries, keys] with -inf at keys that are not seen, and
        values, of one sequence after the other."""
        part, repeats = call.part, call.query.shape[1] // call.keys.shape[1]
        for place in range(len(part.query_ends) - 1):
            own, other = (slice(int(ends[place]), int(ends[place + 1])) for ends in (part.query_ends, part.key_ends))
            key, value = (tensor[other].repeat_interleave(repeats, dim=1) for tensor in (call.keys, call.values))
            scores = torch.einsum("qhd,khd->hqk", call.query[own], key) * call.scale
            behind = len(key) - (own.stop - own.start)
            before = torch.arange(own.stop - own.start)[:, None] + behind - torch.arange(len(key))  # how far back
            hidden = torch.zeros_like(before, dtype=torch.bool)
            if part.causal:
                hidden |= before < 0
            if part.window is not None:
                hidden |= before >= part.window
            yield own, other, scores.masked_fill(hidden, -torch.inf), value
