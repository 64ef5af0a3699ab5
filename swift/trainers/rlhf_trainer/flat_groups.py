"""Groups whose rewards hardly differ: kept, dropped from the loss, or taught by the reference answer.

A flat group has no advantages to learn from. If all its answers are worse than the record's own solution, the policy
can still learn to prefer the solution to the worst of them, by the loss of DPO (arXiv 2305.18290). The idea of a
preference where all sampled answers are wrong is that of OraPO (arXiv 2509.18600). Departure from the paper: the pair
counts as much as the group it stands for, without a weight that adapts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from swift.engine.batch import Completions, collate_completions
from swift.llm.arguments import RLHFArguments
from swift.llm.template.protocol import Template
from swift.plugin.rewards import LogMetric
from swift.trainers.data import PromptItem
from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.advantages import combine_rewards
from swift.trainers.rlhf_trainer.rollout import Rollout

# (prompts, completions per prompt, completions, the same as texts, receiver of metrics) -> rewards [N, R]
ScoreAnswers = Callable[[Sequence[PromptItem], int, Completions, Sequence[str], LogMetric], Tensor]


@dataclass(frozen=True)
class FlatGroups:
    """Treats the flat groups of a rollout as ``--flat_groups`` says."""

    treatment: str  # keep, drop or dpo
    min_std: float  # a group with at most this standard deviation of rewards is flat
    weights: Tensor  # [R] of the rewards
    template: Template
    longest: int  # tokens of the longest solution that is learned from
    score: ScoreAnswers

    @classmethod
    def of(cls, args: RLHFArguments, weights: Tensor, template: Template, score: ScoreAnswers) -> FlatGroups:
        """The treatment that the arguments of a run ask for."""
        return cls(args.flat_groups, args.min_group_std, weights, template, args.max_completion_length, score)

    def __call__(self, rollout: Rollout, means: Means) -> Rollout:
        """``rollout`` with its flat groups treated. Their shares are observed in ``means``."""
        if self.treatment == "keep":
            return rollout
        flat = (rollout.std <= self.min_std).nonzero().flatten().tolist()
        means.add("flat_groups", len(flat), len(rollout))
        if self.treatment == "drop":
            return without(rollout, flat)
        totals = combine_rewards(rollout.rewards, self.weights.to(rollout.rewards.device)).view(len(rollout), -1)
        taught = self._taught(rollout, flat, totals.amax(dim=1))
        means.add("dpo_groups", len(taught), len(rollout))
        return with_references(rollout, taught, totals.argmin(dim=1).tolist(), self.template) if taught else rollout

    def _taught(self, rollout: Rollout, flat: Sequence[int], best: Tensor) -> dict[int, tuple[list[int], Tensor]]:
        """Tokens and rewards [R] of the solution of each flat group whose ``best`` [B] answer is worse than it. A
        solution that is missing or too long teaches nothing."""
        solutions = {group: rollout.items[group].record.solution for group in flat}
        tokens = {group: self.template.encode_completion(text) for group, text in solutions.items() if text}
        tokens = {group: ids for group, ids in tokens.items() if len(ids) <= self.longest}
        if not tokens:
            return {}
        texts = [self.template.decode(ids) for ids in tokens.values()]
        completions = collate_completions(list(tokens.values()), self.template.pad_token_id, rollout.std.device)
        # Metrics that rewards log are of the policy's answers, and these are not.
        rewards = self.score([rollout.items[group] for group in tokens], 1, completions, texts, lambda *_: None)
        totals = combine_rewards(rewards, self.weights.to(rewards.device))
        return {
            group: (ids, rewards[place])
            for place, (group, ids) in enumerate(tokens.items())
            if totals[place] > best[group] + self.min_std
        }


def without(rollout: Rollout, groups: Sequence[int]) -> Rollout:
    """The same rollout with ``groups`` left out of the policy loss."""
    in_loss = rollout.in_loss.clone()
    in_loss.view(-1, rollout.group_size)[list(groups)] = False
    return replace(rollout, in_loss=in_loss)


def with_references(
    rollout: Rollout, taught: dict[int, tuple[list[int], Tensor]], worst: Sequence[int], template: Template
) -> Rollout:
    """Put the solution in the place of one answer of each group in ``taught`` (its tokens and rewards [R], by group),
    to be preferred to the group's worst answer.

    ``worst`` [B] is the place of the worst answer in each group. The first of the others gives its place. The groups in
    ``taught`` leave the policy loss.
    """
    size = rollout.group_size
    completions, texts, tokens = rollout.completions, list(rollout.texts), list(rollout.tokens)
    longest = max(completions.ids.shape[1], *(len(ids) for ids, _ in taught.values()))
    ids = nn.functional.pad(completions.ids, (0, longest - completions.ids.shape[1]), value=template.pad_token_id)
    lengths, finished = completions.lengths.clone(), completions.finished.clone()
    rewards, preference = rollout.rewards.clone(), torch.zeros_like(rollout.advantages)
    for group, (solution, earned) in taught.items():
        row = group * size + (1 if worst[group] == 0 else 0)
        preference[group * size + worst[group]], preference[row] = -1, 1
        ids[row] = template.pad_token_id
        ids[row, : len(solution)] = torch.tensor(solution, device=ids.device)
        lengths[row], finished[row], rewards[row] = len(solution), True, earned
        tokens[row] = template.decode_tokens(solution)
        texts[row] = "".join(tokens[row])
    treated = replace(
        rollout,
        completions=Completions(ids, lengths, finished),
        texts=texts,
        tokens=tokens,
        rewards=rewards,
        preference=preference,
    )
    return without(treated, list(taught))
