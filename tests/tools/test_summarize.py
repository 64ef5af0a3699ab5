"""The table of a sweep: its numbers computed again by hand and by a slow bootstrap, its gaps, its forms."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from tools.summarize import main
from tools.sweeps.plots import mean_over_seeds, smoothed
from tools.sweeps.summary import SETTINGS, FinishedRun
from utils.intervals import RESAMPLES

TRUTH = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"
WRONG = "<think></think><answer>no</answer>"
HEDGED = "<think>There is a small left pleural effusion.</think><answer>yes, no</answer>"
PATIENTS = (0, 0, 0, 1, 1, 2)  # of the six questions
BOTH, ALONE = "external_r1v_acc external_kg_jac", "external_r1v_acc"


class SweepFolder:
    """A sweep's folder, filled run by run."""

    def __init__(self, folder):
        self.folder, self.runs = folder, {}

    def add(self, texts=None, *, policy="uniform", size="64", rewards=BOTH, seed="0", status="finished", reason="",
            steps=0, flags=(), evaluation=None, data="d", **settings):  # fmt: skip
        """A run that gave ``texts`` to the six questions; None: not evaluated."""
        tag = f"{policy}_{size}_{len(rewards.split())}_{seed}_{len(self.runs)}"
        values = {"learning_rate": "6e-5", "generations": "8", "beta": "0.5", "policy": policy, "size": size,
                  "rewards": rewards, **settings}  # fmt: skip
        self.runs[tag] = {"tag": tag, "folder": tag, "seed": seed, "status": status, "reason": reason, **values}
        run = self.folder / tag
        (run / "eval").mkdir(parents=True)
        if texts is not None:
            results = [
                {"idx": n, "question": "Is there an effusion?", "answer": ["yes"], "explanation": TRUTH,
                 "subject_id": PATIENTS[n], "generated_text": text, "num_tokens": 10 + n}
                for n, text in enumerate(texts)
            ]  # fmt: skip
            (run / "eval" / "a_results.json").write_text(json.dumps({"dataset": "basic", "results": results}))
            evaluation = {"files": ["a_results.json"], "flags": evaluation or {}}
            (run / "run.json").write_text(json.dumps({"data_sha256": data, "evaluation": evaluation}))
        command = ["rlhf.py", "--seed", seed, "--output_dir", tag, "--reward_funcs", *rewards.split(), *flags]
        (run / "args.json").write_text(json.dumps({"command": command}))
        if steps:
            (run / f"checkpoint-{steps}").mkdir()
            history = [{"step": n, "reward": n * int(seed), "rewards/external_r1v_acc": n / steps,
                        "completion_length": 30 - n} for n in range(1, steps + 1)]  # fmt: skip
            state = {"global_step": steps, "max_steps": steps, "log_history": history}
            (run / f"checkpoint-{steps}" / "trainer_state.json").write_text(json.dumps(state))
        return self

    def summarize(self, *flags) -> int:
        (self.folder / "sweep.json").write_text(json.dumps({"runs": self.runs}))
        return main([str(self.folder), *flags])

    def rows(self) -> list[dict]:
        return json.loads((self.folder / "summary.json").read_text())["rows"]


@pytest.fixture
def sweep(tmp_path, lexicon):
    return SweepFolder(tmp_path)


def by_patients(values, seed=0):
    """Percentile bootstrap that draws patients, written as a loop, with the draws of utils.intervals."""
    patients = sorted(set(PATIENTS))
    rng = np.random.default_rng(seed)
    means = []
    for drawn in rng.integers(0, len(patients), (RESAMPLES, len(patients))):
        taken = [value for patient in drawn for value, owner in zip(values, PATIENTS, strict=True) if owner == patient]
        means.append(sum(taken) / len(taken))
    return np.percentile(means, [2.5, 97.5])


def test_numbers_are_those_computed_again(sweep):
    first = [TRUTH, TRUTH, WRONG, WRONG, TRUTH, WRONG]
    second = [TRUTH, WRONG, WRONG, TRUTH, TRUTH, HEDGED]
    alone = [WRONG, WRONG, WRONG, TRUTH, WRONG, TRUTH]
    sweep.add(first, seed="0").add(second, seed="1").add(alone, rewards=ALONE, seed="1")
    assert sweep.summarize() == 0
    baseline, row = sweep.rows()
    assert (baseline["rewards"], row["seeds"]) == (ALONE, ["0", "1"])
    # Right by the training rule: 3 of 6, and 4 of 6 as "yes, no" counts; exact: 3 and 3.
    over_seeds = [1, 0.5, 0, 0.5, 1, 0.5]
    accuracy = row["metrics"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(3.5 / 6)
    np.testing.assert_allclose([accuracy["lo"], accuracy["hi"]], by_patients(over_seeds))
    assert row["metrics"]["exact_set"]["mean"] == pytest.approx(3 / 6)
    assert row["deviation_over_seeds"]["accuracy"] == pytest.approx(abs(3 / 6 - 4 / 6) / 2**0.5)
    # The reasoning is the reference's or nothing: F1 1 or 0, 3 of 6 and 4 of 6.
    assert row["metrics"]["kg_f1"]["mean"] == pytest.approx(3.5 / 6)
    assert row["metrics"]["length"]["mean"] == pytest.approx(12.5)
    # Paired over seed 1 alone, which both have.
    second_right, alone_right = [1, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1]
    difference = row["difference_to_baseline"]["accuracy"]
    assert difference["mean"] == pytest.approx((4 - 2) / 6)
    np.testing.assert_allclose(
        [difference["lo"], difference["hi"]], by_patients(np.subtract(second_right, alone_right))
    )
    assert baseline["difference_to_baseline"] == {}


def test_differences_are_to_the_same_setting_of_the_baseline(sweep):
    right, wrong = [TRUTH] * 6, [WRONG] * 6
    sweep.add(right).add(wrong, rewards=ALONE).add(right, size="128").add(right, rewards=ALONE, size="128")
    sweep.add(right, beta="0.1")
    assert sweep.summarize() == 0
    found = {
        (row["size"], row["beta"]): {name: value["mean"] for name, value in row["difference_to_baseline"].items()}
        for row in sweep.rows()
        if row["rewards"] == BOTH
    }
    assert found == {
        ("64", "0.5"): {"accuracy": 1.0, "kg_f1": 1.0},
        ("128", "0.5"): {"accuracy": 0.0, "kg_f1": 0.0},
        ("64", "0.1"): {},
    }


def test_another_baseline_may_be_named(sweep):
    sweep.add([TRUTH] * 6).add([WRONG] * 6, rewards="external_format")
    assert sweep.summarize("--baseline", "external_format") == 0
    assert [bool(row["difference_to_baseline"]) for row in sweep.rows()] == [False, True]
    assert "accuracy - format" in (sweep.folder / "summary.md").read_text()


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"flags": ["--max_steps", "8"]}, "max_steps of the training is not set in the first and '8' in the second"),
        ({"data": "e"}, "data_sha256 of the training is 'd' in the first and 'e' in the second"),
        (
            {"evaluation": {"max_new_tokens": ["9"]}},
            "max_new_tokens of the evaluation is not set in the first and '9' in the second",
        ),
    ],
)
@pytest.mark.parametrize("other", [{"seed": "1"}, {"rewards": ALONE}], ids=["a seed", "the baseline"])
def test_runs_that_differ_in_more_than_seed_and_rewards_are_refused(sweep, capsys, difference, words, other):
    assert sweep.add([TRUTH] * 6).add([WRONG] * 6, **other, **difference).summarize() == 2
    said = capsys.readouterr().err
    first, second = sweep.runs
    assert f"runs {first} and {second} would count as the same" in said
    assert words in said
    assert "another SWEEP folder" in said


def test_runs_that_differ_in_their_setting_or_their_pace_are_not_refused(sweep):
    sweep.add([TRUTH] * 6).add([TRUTH] * 6, size="128", flags=["--max_steps", "8"], data="e")
    sweep.add([TRUTH] * 6, seed="1", flags=["--resume_from_checkpoint", "true"], evaluation={"batch_size": ["3"]})
    assert sweep.summarize() == 0
    assert [row["seeds"] for row in sweep.rows()] == [["0", "1"], ["0"]]


def test_runs_without_numbers_are_named_in_their_line(sweep):
    sweep.add([TRUTH] * 6, seed="0").add(seed="1", status="failed", reason="exit status 2: error: no | luck")
    sweep.add(seed="2").add(size="128", status="interrupted", reason="at step 3")
    assert sweep.summarize() == 0
    one, none = sweep.rows()
    assert one["not_in_the_numbers"] == ["seed 1 failed: exit status 2: error: no | luck", "seed 2 not evaluated"]
    assert none["metrics"] == {}
    lines = (sweep.folder / "summary.md").read_text().splitlines()
    assert "| 1/3 |" in lines[2]
    assert r"no \| luck; seed 2 not evaluated |" in lines[2]
    assert "| 0/1 | - |" in lines[3]
    assert "seed 0 interrupted: at step 3 |" in lines[3]


def test_results_of_a_run_that_is_not_finished_do_not_count(sweep):
    sweep.add([TRUTH] * 6, status="running").add([WRONG] * 6, size="128")
    assert sweep.summarize() == 0
    assert [row["seeds"] for row in sweep.rows()] == [[], ["0"]]


def test_the_best_of_a_column_carries_a_star(sweep):
    sweep.add([TRUTH] * 5 + [WRONG]).add([TRUTH] * 3 + [WRONG] * 3, policy="random")
    sweep.add([TRUTH] * 5 + [WRONG], size="128")
    assert sweep.summarize() == 0
    lines = (sweep.folder / "summary.md").read_text().splitlines()[2:5]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] + line[1] for line in cells] == ["random64", "uniform64", "uniform128"]
    assert [line[4].endswith("*") for line in cells] == [False, True, True]


def test_rows_are_ordered_by_size_as_a_number(sweep):
    for size in ("128", "64", "1000"):
        sweep.add([TRUTH] * 6, size=size)
    assert sweep.summarize() == 0
    assert [row["size"] for row in sweep.rows()] == ["64", "128", "1000"]


def test_all_forms_of_the_table_tell_the_same(sweep):
    sweep.add([TRUTH] * 4 + [WRONG] * 2, steps=3).add([TRUTH] * 3 + [WRONG] * 3, rewards=ALONE, steps=3)
    sweep.add([TRUTH] * 6, size="128", steps=3)
    assert sweep.summarize() == 0
    with open(sweep.folder / "summary.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([3 / 6, 4 / 6, 1.0], abs=1e-5)
    assert [row["accuracy_difference"] for row in rows] == ["", "0.166667", ""]
    for name in ("summary.md", "summary.tex", "summary.html"):
        text = (sweep.folder / name).read_text()
        assert all(number in text for number in ("0.500 [", "0.667 [", "1.000 [", "+0.167 [")), name
    assert re.findall(r'src="([^"]+)"', (sweep.folder / "summary.html").read_text()) == ["sizes.png", "steps.png"]
    for name in ("sizes.png", "steps.png"):
        with Image.open(sweep.folder / name) as picture:
            assert picture.size[0] > 500


def test_equal_runs_give_equal_bytes(sweep):
    sweep.add([TRUTH] * 6, steps=3).add([WRONG] * 6, rewards=ALONE, steps=3)
    names = ("summary.json", "summary.md", "summary.csv", "summary.tex", "summary.html", "sizes.png", "steps.png")
    texts = []
    for order in (1, -1):
        sweep.runs = dict(list(sweep.runs.items())[::order])
        assert sweep.summarize() == 0
        texts.append([(sweep.folder / name).read_bytes() for name in names])
    assert texts[0] == texts[1]


def test_curves_are_means_over_the_seeds_that_have_a_step():
    logs = ([{"step": 1, "kl": 2.0}, {"step": 2, "kl": 4.0}], [{"step": 1, "kl": 4.0}, {"step": 2, "loss": 1.0}])
    runs = [FinishedRun("t", tuple(SETTINGS), str(seed), "finished", "", None, log) for seed, log in enumerate(logs)]
    assert mean_over_seeds(runs, "kl") == ([1, 2], [3.0, 4.0])
    # 40 steps: two to each side, fewer at the ends.
    np.testing.assert_allclose(smoothed([float(n) for n in range(40)])[[0, 1, 20, 39]], [1.0, 1.5, 20.0, 38.0])


def test_a_folder_that_is_no_sweep_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no sweep.json with runs; give the folder that train_loop.sh wrote" in capsys.readouterr().err


def test_a_sweep_without_any_evaluation_still_has_its_table_and_curves(sweep):
    sweep.add(seed="0", steps=4).add(seed="1", status="planned")
    assert sweep.summarize() == 0
    assert sweep.rows()[0]["not_in_the_numbers"] == ["seed 0 not evaluated", "seed 1 planned"]
    assert (sweep.folder / "steps.png").exists()
    assert not (sweep.folder / "sizes.png").exists()
