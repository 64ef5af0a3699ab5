"""The plan: its cells and runs, the weights of its contrasts, and the commands that carry it out."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from experiments.claim.plan import PLAN_FILE, CellRun, PlanCell, read_plan
from experiments.claim.run import EXPERIMENT_STAGES, commands_of, main
from experiments.claim.runs import run_folder, seconds_until_saved, training_seconds
from swift.utils.errors import UserError
from tests.support.experiments.claim import small_plan, small_settings
from tools.sweeps.grid import plan_sweep
from tools.sweeps.settings import EvaluationSettings, RunSettings, SweepSettings, read_settings


def test_the_plan_of_the_experiment_has_at_least_60_runs_of_grpo() -> None:
    runs = [run for run in read_plan().runs() if not run.cell.baseline]
    assert len(runs) >= 60
    assert len({run.tag for run in runs}) == len(runs)


def test_weights_of_every_contrast_sum_to_nothing() -> None:
    for contrast in read_plan().contrasts:
        assert sum(weight for weight, _ in contrast.weights) == pytest.approx(0), contrast.name
        assert sum(weight for weight, _ in contrast.weights if weight > 0) == pytest.approx(1), contrast.name


def test_a_contrast_pairs_cells_that_differ_in_nothing_else(tmp_path: Path) -> None:
    """Rewards differ, sampling does not: hard with graph against hard with accuracy, and the same for uniform."""
    settings = small_settings(tmp_path)
    settings["grid"][0]["samplings"] = ["uniform", "hard_uniform"]
    settings["contrasts"] = [
        {"name": "graph", "claim": "", "confirmatory": True, "plus": {"rewards": "graph"},
         "minus": {"rewards": "accuracy"}, "where": {}}
    ]  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(settings))
    (contrast,) = read_plan(tmp_path / "plan.json").contrasts
    assert {(weight, cell.label) for weight, cell in contrast.weights} == {
        (0.5, "graph-sum-uniform-16"), (-0.5, "accuracy-sum-uniform-16"),
        (0.5, "graph-sum-hard_uniform-16"), (-0.5, "accuracy-sum-hard_uniform-16"),
    }  # fmt: skip


def test_a_baseline_is_compared_with_the_mean_of_the_cells(tmp_path: Path) -> None:
    contrast = small_plan(tmp_path)[1].contrasts[1]
    assert {cell.label: weight for weight, cell in contrast.weights} == {
        "accuracy-sum-uniform-16": 0.5, "graph-sum-uniform-16": 0.5, "sft": -1.0,
    }  # fmt: skip


def test_policies_that_are_compared_share_a_stratum() -> None:
    """Rewards are compared within a policy. Hard and uniform are compared with each other, and so share one."""
    contrasts = {contrast.name: contrast.strata for contrast in read_plan().contrasts}
    assert len(set(contrasts["graph reward"].values())) == 3
    assert len(set(contrasts["hard against uniform"].values())) == 1
    assert set(contrasts["GRPO against SFT"]) == {"uniform"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"grid": [{"rewards": ["beauty"], "advantages": [], "samplings": [], "sizes": []}]}, "'beauty'"),
        ({"contrasts": [{"name": "c", "claim": "", "confirmatory": True, "plus": {"beta": "1"}, "minus": {},
                         "where": {}}]}, "names 'beta'"),
        ({"contrasts": [{"name": "c", "claim": "", "confirmatory": True, "plus": {"size": "9"}, "minus": {},
                         "where": {}}]}, "compares no cells"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_carried_out_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(small_settings(tmp_path) | change))
    with pytest.raises(UserError, match=message):
        read_plan(tmp_path / "plan.json")


def test_a_plan_without_a_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"seeds": [1]}))
    with pytest.raises(UserError, match="places is missing"):
        read_plan(tmp_path / "plan.json")


def test_the_sweeps_train_every_cell_with_every_seed_once() -> None:
    """The environments are read as train_loop.sh reads them."""
    plan = read_plan()
    trained = []
    for command in commands_of("sweeps", plan, PLAN_FILE, Path("results"), jobs=2):
        kinds = (SweepSettings, RunSettings, EvaluationSettings)
        sweep, run, evaluation = (read_settings(kind, command.environment) for kind in kinds)
        planned = plan_sweep(sweep, run, evaluation, "python", command.words[1:])
        trained += [(Path(sweep.sweep).name, one.settings) for one in planned]
    rewards = {words: name for name, words in plan["rewards"].items()}
    cells = [
        (
            rewards[one["rewards"]],
            advantage,
            one["policy"].removesuffix(f"_seed{one['seed']}"),
            one["size"],
            one["seed"],
        )
        for advantage, one in trained
    ]
    expected = [
        (c.rewards, c.advantage, c.sampling, c.size, str(s)) for c, s in itertools.product(plan.cells, plan.seeds)
    ]
    assert sorted(cells) == sorted(expected)
    assert all(f"_seed{one['seed']}/" in one["data"] for _, one in trained)  # a training set of its own


def test_a_run_is_found_by_what_the_sweep_says_of_it(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)[1]
    run = CellRun(PlanCell("graph", "sum", "uniform", "16"), 2)
    assert run_folder(plan, run) is None
    entry = {"folder": "tag", "policy": "uniform_seed2", "size": "16", "seed": "2"}
    runs = {"other": entry | {"folder": "other", "rewards": "external_r1v_acc"},
            "tag": entry | {"rewards": "external_r1v_acc external_kg_jac"}}  # fmt: skip
    (tmp_path / "output" / "sum").mkdir(parents=True)
    (tmp_path / "output" / "sum" / "sweep.json").write_text(json.dumps({"runs": runs}))
    assert run_folder(plan, run) == tmp_path / "output" / "sum" / "tag"


def test_seconds_of_training_are_those_of_the_steps() -> None:
    """Two entries of 10 steps each: 10 x (1 + 2) + 10 x (1 + 1) = 50."""
    history = [
        {"step": 10, "seconds/rollout": 1.0, "seconds/update": 2.0},
        {"step": 20, "seconds/rollout": 1.0, "seconds/update": 1.0},
    ]
    assert training_seconds(history) == pytest.approx(50)
    assert training_seconds([{"step": 20, "loss": 7.0}]) == 0


def test_the_time_of_sft_is_that_until_its_checkpoint_was_written(tmp_path: Path) -> None:
    """The log of SFT times no stage. A record of 0 seconds was written for it."""
    (tmp_path / "trainer_state.json").write_text("{}")
    os.utime(tmp_path / "trainer_state.json", (1000.0, 1000.0))
    assert seconds_until_saved("1970-01-01T00:15:10+00:00", tmp_path) == pytest.approx(90)


def test_a_dry_run_prints_every_stage_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, _ = small_plan(tmp_path)
    assert main(["--plan", str(path), "--results", str(tmp_path / "results"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert [line.removeprefix("# ") for line in printed.splitlines() if line.startswith("# ")] == list(
        EXPERIMENT_STAGES
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"]
