"""Sampled groups with their rewards and advantages. The next record on their way to the loss is in micro_batch.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.engine.batch import Completions, PromptBatch, concat_completions, concat_prompts
from swift.engine.rollout.choosing import Sampling, prompt_uniforms
from swift.engine.rollout.stop_words import StopWords
from swift.llm.arguments import RLHFArguments
from swift.llm.dataset import last_question
from swift.llm.template.protocol import Template
from swift.plugin.rewards import TRAINER_STATE
from swift.trainers.data import PromptDataset, PromptItem, prompt_lengths
from swift.trainers.memory_plan import Load
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

VALIDATION = 1 << 31  # in place of the step in the random numbers of validation, which are the same at every step
# Columns that every reward may ask for, whatever the data set has.
PROVIDED_COLUMNS = frozenset({"solution", "images", "messages", "prompts", "completion_tokens", TRAINER_STATE})


@dataclass(frozen=True)
class Rollout:
    """B prompts, N = B * G completions of them (groups adjacent), and their rewards and advantages."""

    items: list[PromptItem]  # [B]
    prompts: PromptBatch
    completions: Completions
    texts: list[str]  # [N]
    tokens: list[list[str]]  # [N] pieces that join to the text
    rewards: Tensor  # [N, R], NaN if a reward does not apply
    advantages: Tensor  # [N], 0 until the rewards of the whole batch are known
    std: Tensor  # [B] standard deviation of the weighted reward within each group
    in_loss: Tensor  # bool [N]: completions that count in the policy loss
    preference: Tensor | None = None  # [N]: 1 for an answer to be preferred to the one with -1 in its group, else 0

    def __post_init__(self) -> None:
        fields = (self.completions, self.texts, self.tokens, self.rewards, self.advantages, self.in_loss)
        counts = {len(field) for field in fields}
        if len(counts) != 1 or len(self.items) != len(self.prompts) or len(self.texts) % len(self.items):
            raise ValueError(f"{len(self.items)} prompts with completion fields of lengths {sorted(counts)}")

    def __len__(self) -> int:
        return len(self.items)

    @property
    def group_size(self) -> int:
        """G, the number of completions per prompt."""
        return len(self.texts) // len(self.items)

    @property
    def loss_mask(self) -> Tensor:
        """True at the tokens that count in the loss, [N, C]."""
        return self.completions.mask & self.in_loss[:, None]

    @property
    def sampled(self) -> Tensor:
        """True at the tokens that the policy has sampled, [N, C]. Those of solutions are not among them."""
        mask = self.completions.mask
        return mask if self.preference is None else mask & (self.preference < 1)[:, None]

    def parts(self, size: int) -> list[Rollout]:
        """The completions in blocks of ``size``. A block holds whole groups, or a part of one group.

        Rewards and advantages are those of the whole groups.
        """
        group = self.group_size
        if size >= group:
            step = size // group
            blocks = [range(start, min(start + step, len(self))) for start in range(0, len(self), step)]
            return [self.select(block) for block in blocks]
        starts = range(0, group, size)
        return [self._members(g, range(s, min(s + size, group))) for g in range(len(self)) for s in starts]

    def _members(self, group: int, members: Sequence[int]) -> Rollout:
        """The rollout of some completions of one group."""
        whole = self.select([group])
        rows = list(members)
        return replace(
            whole,
            completions=whole.completions.select(rows),
            texts=[whole.texts[row] for row in rows],
            tokens=[whole.tokens[row] for row in rows],
            preference=None if whole.preference is None else whole.preference[rows],
            **{name: getattr(whole, name)[rows] for name in ("rewards", "advantages", "in_loss")},
        )

    def select(self, groups: Sequence[int]) -> Rollout:
        """The rollout of the groups at these places, in that order."""
        size = self.group_size
        rows = [group * size + member for group in groups for member in range(size)]
        return Rollout(
            [self.items[group] for group in groups],
            self.prompts.select(groups),
            self.completions.select(rows),
            [self.texts[row] for row in rows],
            [self.tokens[row] for row in rows],
            self.rewards[rows],
            self.advantages[rows],
            self.std[list(groups)],
            self.in_loss[rows],
            None if self.preference is None else self.preference[rows],
        )

    def concat(self, other: Rollout) -> Rollout:
        """The rollout of the groups of both, neither of which has preferences yet."""
        return Rollout(
            self.items + other.items,
            concat_prompts(self.prompts, other.prompts),
            concat_completions(self.completions, other.completions),
            self.texts + other.texts,
            self.tokens + other.tokens,
            *(
                torch.cat([getattr(self, name), getattr(other, name)])
                for name in ("rewards", "advantages", "std", "in_loss")
            ),
        )


def describe_rollout(rollout: Rollout) -> str:
    """The size of a rollout and the flags that make it smaller, for messages."""
    tokens = int(rollout.prompts.mask.sum()) + int(rollout.completions.lengths.sum())
    return (
        f"{len(rollout)} prompts with {rollout.group_size} completions each, {tokens} tokens; halve "
        "--per_device_train_batch_size (and double --gradient_accumulation_steps), or pass "
        "--gradient_checkpointing true"
    )


def reward_columns(
    items: Sequence[PromptItem], group_size: int, completions: Completions, texts: Sequence[str], state: Any = None
) -> dict[str, Any]:
    """Columns for the rewards, as lists aligned with the N completions, whose ``texts`` are the messages' last turn.

    They are all dataset columns, `question` (the prompt's last turn if the record has no such field) and
    `PROVIDED_COLUMNS`, which win over a data set's own columns of these names. A value that a record lacks is None.
    ``state`` is the Trainer's state, the only column that is not a list.
    """
    rows = [_reward_row(item) for item in items]
    names = sorted({name for row in rows for name in row})
    columns = {name: [row.get(name) for row in rows for _ in range(group_size)] for name in names}
    turns = [item.record.messages for item in items for _ in range(group_size)]
    answers = [{"role": "assistant", "content": text} for text in texts]
    columns["messages"] = [[*asked, answer] for asked, answer in zip(turns, answers, strict=True)]
    return columns | {"completion_tokens": completions.lengths.tolist(), TRAINER_STATE: state}


def _reward_row(item: PromptItem) -> dict[str, Any]:
    record = item.record
    return {
        **record.columns,
        "question": record.columns.get("question") or last_question(record.messages),
        "solution": record.solution,
        "images": [source.data if source.path is None else str(source.path) for source in record.images],
        "prompts": item.prompt.text,
    }


def largest_load(args: RLHFArguments, dataset: PromptDataset, prompts_per_device: int) -> Load:
    """The largest step of a run on one process. All its micro-batches are rolled out at once."""
    group, most = args.num_generations, len(dataset)
    shortest, longest = prompt_lengths(dataset)
    completions = min(args.mini_batch_size or math.inf, min(prompts_per_device, most) * group)
    return Load(
        prompts=min(prompts_per_device * args.gradient_accumulation_steps * args.steps_per_rollout, most),
        shortest_prompt=shortest,
        longest_prompt=longest,
        group_size=group,
        completion_tokens=args.max_completion_length,
        prompts_per_update=math.ceil(completions / group),
        completions_per_update=completions,
    )


def rollout_out_of_memory(step: int, prompts: int, group_size: int) -> UserError:
    """The error of a rollout that ran out of memory, with the flags that make it smaller."""
    return UserError(
        f"step {step}: out of memory in the rollout of {prompts} prompts with {group_size} completions each; halve "
        "--per_device_train_batch_size, --num_generations or --max_completion_length, or lower --dynamic_hd"
    )


def rollout_uniforms(
    items: Sequence[PromptItem], size: int, args: RLHFArguments, step: int, attempt: int = 0
) -> Tensor:
    """The random numbers [N, C] of ``size`` completions of each prompt, a function of the run's seed, the step, the
    attempt and the prompt in whichever process."""
    key, length = (args.seed, step, attempt), args.max_completion_length
    return torch.from_numpy(np.concatenate([prompt_uniforms((*key, item.index), size, length) for item in items]))


def sampling_settings(args: RLHFArguments, template: Template) -> Sampling:
    """The settings of sampling by a run's flags. Warns if it samples from another distribution than is scored."""
    if args.top_k or args.top_p < 1 or args.repetition_penalty != 1:
        logger.warning(
            "top_k, top_p and repetition_penalty change the sampling distribution; log-probabilities are of the whole "
            "distribution without them"
        )
    return Sampling(
        max_new_tokens=args.max_completion_length,
        stop_token_ids=tuple(template.stop_token_ids),
        pad_token_id=template.pad_token_id,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        banned_token_ids=tuple(template.banned_token_ids),
        repetition_penalty=args.repetition_penalty,
        stop_words=StopWords(tuple(args.stop_words), template.decode) if args.stop_words else None,
    )
