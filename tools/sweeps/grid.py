"""The grid of a sweep: one planned run per combination of its settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from swift.utils.errors import UserError
from tools.sweeps.commands import evaluation_command, find_data, training_command
from tools.sweeps.runs import PlannedRun, flags_of
from tools.sweeps.settings import EvaluationSettings, RunSettings, SweepSettings


def plan_sweep(
    sweep: SweepSettings, run: RunSettings, evaluation: EvaluationSettings, python: str, flags: Sequence[str] = ()
) -> list[PlannedRun]:
    """Every run of a sweep, seeds varying fastest. ``flags`` are added to each training command.

    Raises UserError if the grid is empty or holds a run twice.
    """
    reward_sets = [rewards.strip() for rewards in (sweep.reward_sets or run.rewards).split(",")]
    axes = (
        [rewards for rewards in reward_sets if rewards],
        (sweep.lrs or run.learning_rate).split(),
        sweep.generations.split(),
        (sweep.betas or run.beta).split(),
        sweep.sizes.split(),
        sweep.types.split(),
        sweep.seeds.split(),
    )
    names = ("rewards", "learning_rate", "generations", "beta", "size", "type", "seed")
    settings = (replace(run, **dict(zip(names, point, strict=True))) for point in itertools.product(*axes))
    plan = [_plan_run(sweep, point, evaluation, python, flags) for point in settings]
    _check_tags([planned.tag for planned in plan])
    return plan


def run_tag(run: RunSettings) -> str:
    """The name of a run in its sweep: of its folder, its log and its row in the summary."""
    rewards = run.rewards.replace("external_", "").replace(" ", "-")
    numbers = f"lr{run.learning_rate}_g{run.generations}_beta{run.beta}"
    return f"{run.type}_{run.size}_{numbers}_{rewards}_seed{run.seed}"


def _plan_run(
    sweep: SweepSettings, run: RunSettings, evaluation: EvaluationSettings, python: str, flags: Sequence[str]
) -> PlannedRun:
    tag = run_tag(run)
    # The scheduler knows which runs to resume.
    run = replace(
        run, dataset=find_data(run.annotations, run.type, run.size), output_dir=f"{sweep.sweep}/{tag}", resume=""
    )
    settings = {
        "tag": tag,
        "folder": run.output_dir,
        "data": run.dataset,
        "policy": run.type,
        "size": run.size,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "generations": run.generations,
        "beta": run.beta,
        "rewards": run.rewards,
    }
    evaluate = evaluation_command(run, evaluation, python, flags_of(flags)) if sweep.evaluate == "true" else ()
    return PlannedRun(settings, (*training_command(run, python), *flags), tuple(evaluate))


def _check_tags(tags: Sequence[str]) -> None:
    if not tags:
        raise UserError("the plan holds no runs; give at least one size, type, seed and set of rewards")
    if len(set(tags)) < len(tags):
        twice = next(tag for tag in tags if tags.count(tag) > 1)
        raise UserError(f"run {twice} is in the plan twice; name each size, type, seed and setting once")
