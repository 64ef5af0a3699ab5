"""Every loss and advantage of the GRPO family against float64 Python written out from its definition."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swift.engine.logprobs import LogProbs
from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.advantages import Estimator, normalized_parts
from swift.trainers.rlhf_trainer.loss import loss_divisor
from swift.trainers.rlhf_trainer.micro_batch import LossWeights, MicroBatch, PreferenceTerms
from swift.trainers.rlhf_trainer.policy_loss import LossTerms, PolicyLoss
from swift.trainers.rlhf_trainer.step_terms import StepTerms, preference_margins

LOSS_TYPES = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo")
LENGTH = 9  # most tokens of a completion
GROUP = 4


def batch_of(seed: int, count: int = 8, width: int = 7, spread: float = 0.6) -> SimpleNamespace:
    """Random completions of uneven lengths. Many ratios are beyond the clip range. One completion does not count."""
    generator = np.random.default_rng(seed)
    logps = -generator.exponential(1, (count, width))
    lengths = generator.integers(1, width + 1, count)
    sampled = np.arange(width) < lengths[:, None]
    mask = sampled & (np.arange(count) != count - 1)[:, None]
    shift, reference = generator.normal(0, spread, (2, count, width))
    return SimpleNamespace(
        logps=logps,
        old=logps - shift,
        reference=logps + reference,
        advantages=generator.normal(size=count),
        mask=mask,
        sampled=sampled,
        entropy=generator.random((count, width)),
        rewards=generator.random((count, 2)),
    )


def slow_token_loss(b: SimpleNamespace, i: int, j: int, loss: PolicyLoss) -> float:
    """The policy term of one token, from the papers' definitions."""
    tokens = np.flatnonzero(b.mask[i])
    log_ratio = b.logps[i, j] - b.old[i, j]
    if loss.of_sequences:
        log_ratio = sum(b.logps[i, t] - b.old[i, t] for t in tokens) / len(tokens)
    ratio, advantage = math.exp(log_ratio), b.advantages[i]
    high = loss.epsilon if loss.epsilon_high is None else loss.epsilon_high
    if loss.loss_type == "cispo":
        return -min(ratio, high) * advantage * b.logps[i, j]
    if loss.loss_type == "sapo":
        temperature = 1.0 if advantage > 0 else 1.05
        return -advantage * 4 / temperature / (1 + math.exp(-temperature * (ratio - 1)))
    held = min(max(ratio, 1 - loss.epsilon), 1 + high)
    free = ratio if loss.delta is None else min(ratio, loss.delta)
    return -min(free * advantage, held * advantage)


def slow_loss(b: SimpleNamespace, loss: PolicyLoss, micro_batches: int = 1) -> float:
    """The loss of a step whose micro-batches are successive completions, as many in each."""
    sums, counts = [], []
    for i in range(len(b.mask)):
        terms = []
        for j in np.flatnonzero(b.mask[i]):
            difference = b.reference[i, j] - b.logps[i, j]
            kl = math.exp(difference) - difference - 1
            terms.append(slow_token_loss(b, i, j, loss) + loss.beta * kl)
        sums.append(sum(terms))
        counts.append(len(terms))
    if loss.loss_type in ("grpo", "sapo"):
        return sum(total / max(count, 1) for total, count in zip(sums, counts, strict=True)) / len(sums)
    if loss.loss_type == "dr_grpo":
        return sum(sums) / (len(sums) * LENGTH)
    if loss.loss_type == "bnpo":
        blocks = zip(np.split(np.array(sums), micro_batches), np.split(np.array(counts), micro_batches), strict=True)
        return float(np.mean([block.sum() / count.sum() for block, count in blocks]))
    return sum(sums) / sum(counts)


def terms_of(b: SimpleNamespace, rows: slice = slice(None), weights: LossWeights | None = None) -> LossTerms:
    tensors = {
        name: torch.tensor(getattr(b, name)[rows]) for name in ("advantages", "sampled", "mask", "reference", "old")
    }
    return LossTerms(*tensors.values(), weights or LossWeights(), None)


def divisors(b: SimpleNamespace, loss_type: str, blocks: list[slice]) -> list[torch.Tensor]:
    counts = {
        "tokens": torch.tensor(b.mask.sum()),
        "completions": torch.tensor(len(b.mask)),
        "micro_batches": torch.tensor(len(blocks)),
    }
    return [
        loss_divisor(loss_type, **counts, own_tokens=torch.tensor(b.mask[rows].sum()), length=LENGTH) for rows in blocks
    ]


def fast_loss(b: SimpleNamespace, loss: PolicyLoss, blocks: list[slice]) -> tuple[float, np.ndarray]:
    """The loss of a step, block by block, and its gradient."""
    logps = torch.tensor(b.logps, requires_grad=True)
    total = 0.0
    for rows, divisor in zip(blocks, divisors(b, loss.loss_type, blocks), strict=True):
        scores = LogProbs(logps[rows], torch.tensor(b.entropy[rows]))
        part = loss(scores, terms_of(b, rows))[0] / divisor
        part.backward()
        total += float(part.detach())
    return total, logps.grad.numpy()


def slow_gradient(b: SimpleNamespace, loss: PolicyLoss, micro_batches: int = 1) -> np.ndarray:
    """Central differences of the slow loss. The weight of a token in CISPO has no gradient, so it is held fixed."""
    gradient = np.zeros_like(b.logps)
    for place in zip(*np.nonzero(b.mask), strict=True):
        values = []
        for step in (1e-6, -1e-6):
            moved = SimpleNamespace(**{**vars(b), "logps": b.logps.copy()})
            moved.logps[place] += step
            if loss.loss_type == "cispo":
                moved.old = b.old + moved.logps - b.logps
            values.append(slow_loss(moved, loss, micro_batches))
        gradient[place] = (values[0] - values[1]) / 2e-6
    return gradient


CASES = [
    *((kind, {"epsilon_high": 1.2} if kind == "cispo" else {}) for kind in LOSS_TYPES),
    ("dapo", {"epsilon_high": 0.28}),
    ("dapo", {"epsilon_high": 0.28, "delta": 1.5}),
    *(("grpo" if kind == "dapo" else kind, {"epsilon": 0.05, "epsilon_high": 1.05 if kind == "cispo" else 0.1,
       "of_sequences": True}) for kind in LOSS_TYPES if kind != "grpo"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_a_loss_and_its_gradient_are_those_of_the_definition(kind, settings):
    loss = PolicyLoss(loss_type=kind, beta=0.3, **settings)
    for seed in range(3):
        b = batch_of(seed)
        value, gradient = fast_loss(b, loss, [slice(None)])
        assert value == pytest.approx(slow_loss(b, loss), rel=1e-9)
        assert np.allclose(gradient, slow_gradient(b, loss), atol=1e-7)


@pytest.mark.parametrize("kind", LOSS_TYPES)
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_change_no_loss_and_no_gradient(kind, micro_batches):
    """All but bnpo, whose definition averages over micro-batches; it is that average for any number of them."""
    loss = PolicyLoss(loss_type=kind, epsilon_high=1.2 if kind == "cispo" else None, beta=0.3)
    b = batch_of(5)
    size = len(b.mask) // micro_batches
    blocks = [slice(start, start + size) for start in range(0, len(b.mask), size)]
    value, gradient = fast_loss(b, loss, blocks)
    assert value == pytest.approx(slow_loss(b, loss, micro_batches), rel=1e-9)
    if kind != "bnpo":
        whole_value, whole_gradient = fast_loss(b, loss, [slice(None)])
        assert value == pytest.approx(whole_value, rel=1e-12)
        assert np.allclose(gradient, whole_gradient, atol=1e-12)


def test_clipping_is_active_in_these_batches():
    loss = PolicyLoss(epsilon_high=0.28)
    figures = [loss(LogProbs(torch.tensor(b.logps), None), terms_of(b))[1] for b in map(batch_of, range(3))]
    for figure in figures:
        low, high = figure.observed["clip_ratio/low_mean"], figure.observed["clip_ratio/high_mean"]
        assert low.any()
        assert high.any()
        assert torch.equal(low + high, figure.observed["clip_ratio"])


def test_weights_of_tokens_and_trajectories_multiply_the_policy_term_alone():
    b, loss = batch_of(1), PolicyLoss(beta=0.3)
    tokens, trajectories = np.random.default_rng(0).random((8, 7)), np.random.default_rng(1).random(8)
    weights = LossWeights(torch.tensor(tokens), torch.tensor(trajectories))
    total = loss(LogProbs(torch.tensor(b.logps), None), terms_of(b, weights=weights))[0]
    expected = 0.0
    for i, j in zip(*np.nonzero(b.mask), strict=True):
        difference = b.reference[i, j] - b.logps[i, j]
        expected += tokens[i, j] * trajectories[i] * slow_token_loss(b, i, j, loss)
        expected += 0.3 * (math.exp(difference) - difference - 1)
    assert float(total) == pytest.approx(expected, rel=1e-9)


# Advantages


def slow_advantages(rewards: np.ndarray, kind: str, scale: str, weights: np.ndarray) -> np.ndarray:
    """Completion by completion in Python."""
    groups = [range(start, start + GROUP) for start in range(0, len(rewards), GROUP)]
    if scale == "gdpo":
        summed = np.zeros(len(rewards))
        for group in groups:
            for part, weight in enumerate(weights):
                values = {i: rewards[i, part] for i in group if not math.isnan(rewards[i, part])}
                if len(values) < 2:
                    continue
                mean, std = np.mean(list(values.values())), np.std(list(values.values()), ddof=1)
                for i, value in values.items():
                    summed[i] += weight * (value - mean) / (std + 1e-4)
        return (summed - summed.mean()) / (summed.std(ddof=1) + 1e-4)
    totals = np.nansum(rewards * weights, axis=1)
    advantages = np.zeros(len(totals))
    for group in groups:
        for i in group:
            others = [totals[j] for j in group if kind != "rloo" or j != i]
            advantages[i] = totals[i] - np.mean(others)
    if scale == "group":
        stds = np.repeat([np.std(totals[list(group)], ddof=1) for group in groups], GROUP)
        return advantages / (stds + 1e-4)
    if scale == "batch":
        measured = advantages if kind == "reinforce_plus_plus" else totals
        return advantages / (np.std(measured, ddof=1) + 1e-4)
    return advantages


KINDS = [(kind, scale) for kind in ("grpo", "rloo", "reinforce_plus_plus") for scale in ("group", "batch", "none")]


@pytest.mark.parametrize(("kind", "scale"), [*KINDS, ("grpo", "gdpo")])
def test_advantages_are_those_of_the_definition(kind, scale):
    weights = np.array([1.0, 0.5])
    for seed in range(3):
        rewards = np.random.default_rng(seed).normal(size=(12, 2))
        rewards[2, 1] = rewards[4:7, 0] = np.nan  # does not apply, once to a whole group but one
        rewards[8:] = rewards[8]  # a flat group
        estimator = Estimator(kind, scale, GROUP, torch.tensor(weights))
        found = estimator(torch.tensor(rewards), None, lambda value: value)
        assert np.allclose(found.numpy(), slow_advantages(rewards, kind, scale, weights), atol=1e-9)


@pytest.mark.parametrize(("kind", "scale"), [("grpo", "batch"), ("reinforce_plus_plus", "batch"), ("grpo", "gdpo")])
def test_statistics_of_the_batch_are_those_of_all_processes(kind, scale):
    """Two processes that see different groups, of which one has more, agree with one that sees all."""
    rewards = torch.tensor(np.random.default_rng(3).normal(size=(12, 2)))
    estimator = Estimator(kind, scale, GROUP, torch.ones(2, dtype=torch.float64))
    whole = estimator(rewards, None, lambda value: value)
    parts = [rewards[:4], rewards[4:]]
    sums: list[list[torch.Tensor]] = [[], []]

    def of_process(number: int, others: list[torch.Tensor] | None) -> torch.Tensor:
        calls = iter(others or [])

        def all_sum(value: torch.Tensor) -> torch.Tensor:
            sums[number].append(value)
            return value + next(calls, torch.zeros_like(value))

        return estimator(parts[number], None, all_sum)

    for _ in range(4):  # a sum depends on the one before it, so the exchange settles after as many rounds
        before = [list(values) for values in sums]
        for values in sums:
            values.clear()
        found = [of_process(0, before[1]), of_process(1, before[0])]
    assert torch.allclose(torch.cat(found), whole, atol=1e-12)


def test_the_kl_is_taken_off_the_rewards():
    rewards, penalty = torch.tensor([[1.0], [0.0]]), torch.tensor([0.75, 0.25])
    found = Estimator("rloo", "none", 2, torch.ones(1))(rewards, penalty, lambda value: value)
    # 0.25 and -0.25: each minus the other
    assert found.tolist() == pytest.approx([0.5, -0.5])


def test_a_reward_that_applies_to_one_completion_of_a_group_adds_nothing_to_gdpo():
    rewards = torch.tensor([[1.0, 5.0], [0.0, float("nan")]])
    parts = normalized_parts(rewards, torch.tensor([1.0, 1.0]), 2)
    assert parts.tolist() == pytest.approx([0.5 / (math.sqrt(0.5) + 1e-4), -0.5 / (math.sqrt(0.5) + 1e-4)])


# Terms of a step


class Step:
    """A micro-batch's rollout as StepTerms reads it."""

    def __init__(self, mask: torch.Tensor, preference: torch.Tensor | None = None) -> None:
        self.loss_mask, self.preference, self.group_size = mask, preference, GROUP
        self.texts, self.completions = [""] * len(mask), SimpleNamespace(mask=mask)


def test_the_most_uncertain_tokens_are_those_of_the_whole_step():
    entropy = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.7, 0.8, 0.9, 1.0, 1.1, 1.2]])
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    args = SimpleNamespace(
        loss_type="dapo", max_completion_length=6, top_entropy_quantile=0.2, flat_groups="keep", device="cpu"
    )
    rollouts = [Step(mask[:1]), Step(mask[1:])]
    scores = {id(rollout): LogProbs(torch.zeros(1, 6), entropy[row : row + 1]) for row, rollout in enumerate(rollouts)}
    terms = StepTerms(args, Means(), lambda r: scores[id(r)], lambda value: value, lambda value: value)
    batches, tokens = terms.complete([MicroBatch(rollout, None, None) for rollout in rollouts])
    # The top 20% of ten tokens are two: 0.9 and 1.0. The two of padding do not count.
    assert tokens == 10
    assert not batches[0].weights.tokens.any()
    assert batches[1].weights.tokens[0, :4].tolist() == [0, 0, 1, 1]


def test_a_preference_has_the_loss_and_gradient_of_dpo():
    """Both answers of the pair in one forward, or each in one of its own."""
    generator = torch.Generator().manual_seed(0)
    logps = torch.randn(4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    preference = torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 3, 4, 2])[:, None]
    gains = torch.where(mask, logps - reference, 0).sum(dim=1)
    loss = -torch.nn.functional.logsigmoid(0.1 * (gains[1] - gains[3]))
    loss.backward()
    expected, value = logps.grad.clone(), float(loss.detach())
    logps.grad = None
    margin = preference_margins(preference, logps.detach(), reference, mask, 4, 0.1)
    slopes = -preference * 0.1 * torch.sigmoid(-margin)
    terms = PreferenceTerms(slopes, preference.abs() / 2 * value)
    total = sum(terms.select(rows).loss(logps[rows], mask[rows]) for rows in (slice(0, 2), slice(2, 4)))
    total.backward()
    assert float(total.detach()) == pytest.approx(value, rel=1e-12)
    assert torch.allclose(logps.grad, expected, atol=1e-12)
