"""Dynamic sampling: groups whose rewards are all alike teach nothing, so groups of other prompts take their places.

Yu et al. 2025, "DAPO" (arXiv 2503.14476), section 3.2. Departure from the paper: the attempts are limited, and a group
that is still flat after the last one is masked out of the loss.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from swift.llm.arguments import RLHFArguments
from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.flat_groups import without
from swift.trainers.rlhf_trainer.rollout import Rollout

RollOutOthers = Callable[[int, set[int], int], Rollout]  # (groups, prompts taken already, attempt)


def replace_flat_groups(
    rollout: Rollout,
    min_std: float,
    attempts: int,
    roll_out_others: RollOutOthers,
    *,
    try_again: Callable[[bool], bool] = bool,
) -> Rollout:
    """Replace flat groups, whose rewards have a standard deviation of ``min_std`` at most, by groups of other prompts
    that have more, in up to ``attempts`` attempts.

    ``roll_out_others(count, taken, attempt)`` samples ``count`` groups whose prompts are preferably outside ``taken``;
    attempts count from 1. Groups that stay flat do not count in the loss. ``try_again`` decides, from whether any
    group is flat, if there is another attempt. A process that has none and tries again, to keep in step with others,
    samples one group and drops it.
    """
    taken = {item.index for item in rollout.items}
    flat = (rollout.std <= min_std).nonzero().flatten().tolist()
    for attempt in range(1, attempts + 1):
        if not try_again(bool(flat)):
            break
        fresh = roll_out_others(max(1, len(flat)), taken, attempt)
        if not flat:
            continue
        taken |= {item.index for item in fresh.items}
        spread = (fresh.std > min_std).nonzero().flatten().tolist()
        order = list(range(len(rollout)))
        for old, new in zip(flat, spread, strict=False):
            order[old] = len(rollout) + new
        rollout = rollout.concat(fresh).select(order)
        flat = flat[len(spread) :]
    return without(rollout, flat)


def resampled(
    rollout: Rollout,
    args: RLHFArguments,
    means: Means,
    roll_out_others: RollOutOthers,
    *,
    try_again: Callable[[bool], bool] = bool,
) -> Rollout:
    """``rollout``, with its flat groups replaced as in `replace_flat_groups` if the run's arguments ask for it. Their
    share is observed."""
    if not args.dynamic_sample:
        return rollout
    min_std = args.min_group_std
    means.add("dropped_groups", float((rollout.std <= min_std).sum()), len(rollout))
    return replace_flat_groups(rollout, min_std, args.max_resample_times, roll_out_others, try_again=try_again)


def other_prompts(prompts: int, count: int, taken: set[int], key: tuple[int, ...]) -> list[int]:
    """Draw ``count`` distinct indexes below ``prompts`` outside ``taken``, or among all when every one is taken.

    The draw is a function of ``key``, so a checkpoint need not hold it.
    """
    order = np.random.default_rng(key).permutation(prompts).tolist()
    return ([index for index in order if index not in taken] or order)[:count]
