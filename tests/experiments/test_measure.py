"""Measurement of a tiny policy on a tiny world, and the figures of answers by hand."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from experiments.claim.measure import answer_figures, main, sampled_figures
from experiments.claim.plan import ClaimPlan
from experiments.claim.tables import read_asked_questions, read_run_table
from tests.support.experiments.claim import small_plan
from tools.demo_world.build import make_demo
from tools.demo_world.dataset import WorldConfig
from tools.demo_world.facts import Finding, Study

STUDY = Study("demo-1", "s", "film", 0, 0, "pa", "m", (Finding("nodule", "left", "mid"),))
ANSWER = {
    "id": 3, "answer": ["yes"], "num_tokens": 12, "image_ids": ["film"],
    "explanation": "<think>There is a nodule in the left mid lung zone.</think><answer>yes</answer>",
}  # fmt: skip


def test_figures_of_an_answer(lexicon: None) -> None:
    """The answer is right. The nodule is true and in the reference. The effusion is invented, by truth and by graph."""
    said = "There is a nodule in the left mid lung zone. There is a large left pleural effusion."
    text = f"<think>{said}</think><answer>yes</answer>"
    (row,) = answer_figures({"results": [ANSWER | {"generated_text": text}]}, {"film": STUDY})
    assert {name: row[name] for name in ("answer_overlap", "exact_set", "format", "length")} == {
        "answer_overlap": 1, "exact_set": 1, "format": 1, "length": 12,
    }  # fmt: skip
    assert (row["hallucination"], row["omission"]) == (0.5, 0)
    assert {name: row[name] for name in ("true", "false", "asserted", "invented", "unjudged", "sound")} == {
        "true": 1, "false": 1, "asserted": 2, "invented": 1, "unjudged": 0, "sound": 0,
    }  # fmt: skip


def test_comparisons_are_not_held_against_the_truth_of_one_image(lexicon: None) -> None:
    answer = ANSWER | {"generated_text": ANSWER["explanation"], "image_ids": ["film", "film"]}
    (row,) = answer_figures({"results": [answer]}, {"film": STUDY})
    assert row["answer_overlap"] == 1
    assert "true" not in row


def test_figures_of_samples() -> None:
    """Two of three share the answer, and one of them is exactly it."""
    texts = ["<answer>yes</answer>", "<answer>yes, maybe</answer>", "<answer>no</answer>"]
    samples = [{"generated_text": text} for text in texts]
    (row,) = sampled_figures({"results": [ANSWER | {"generated_text": texts[0], "samples": samples}]})
    assert row == {"samples": 3, "right": 2, "right_exact": 1}


@pytest.fixture
def trained(world: Path, tmp_path: Path) -> tuple[Path, ClaimPlan]:
    """A plan whose warm start is the tiny policy, and its two worlds."""
    path, plan = small_plan(tmp_path)
    settings = json.loads(path.read_text())
    few = {"questions": 4, "control_questions": 4, "sampled_questions": 2, "samples": 2, "new_tokens": 4}
    settings["measurement"] |= few
    path.write_text(json.dumps(settings))
    for number, name in enumerate(("home", "shifted")):
        style = "shifted" if number else "usual"
        make_demo(plan.world(name), WorldConfig(number, (0, 0, 6), eval_questions=4, style=style), workers=1)
    checkpoint = plan.output / "start" / "checkpoint-2"
    shutil.copytree(world / "policy", checkpoint)
    state = {"global_step": 2, "max_steps": 2, "log_history": [{"step": 2, "loss": 7.0}]}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    command = ["sft.py", "--dataset", str(world / "data" / "train.json"), "--seed", "3"]
    started = datetime.fromtimestamp((checkpoint / "trainer_state.json").stat().st_mtime - 7, UTC).isoformat()
    (plan.output / "start" / "args.json").write_text(json.dumps({"command": command, "started": started}))
    return path, plan


def test_a_policy_is_measured_under_every_condition_and_only_once(
    lexicon: None, trained: tuple[Path, ClaimPlan], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, _ = trained
    results = tmp_path / "results"
    words = ["--plan", str(path), "--results", str(results)]
    assert main(words) == 0
    questions = read_asked_questions(results)
    table = read_run_table(results, "start", questions)
    assert (table.record["steps"], table.record["seconds"], table.record["settings"]["seed"]) == (2, 7, ["3"])
    assert {world: len(asked.rows) for world, asked in questions.items()} == {"home": 12, "shifted": 12}
    assert all((row.answer in ("yes", "no")) == (row.semantic_type == "verify") for row in questions["home"].rows)
    assert {row.patient for row in questions["home"].rows} <= {f"demo-{number:05d}" for number in range(1, 7)}
    for condition in ("home", "blank", "shuffled", "shifted"):
        assert np.isfinite(table.values[condition]["length"]).sum() == 12, condition
        assert np.isfinite(table.values[condition]["sound"]).sum() == 8, condition  # comparisons have no drawn truth
    assert np.isfinite(table.values["sampled"]["right"]).sum() == 6
    assert [record["tag"] for record in json.loads((results / "runs.json").read_text())] == ["start"]

    before = (results / "start.csv.gz").read_bytes()
    capsys.readouterr()
    assert main(words) == 0
    assert "exists already" not in capsys.readouterr().out  # no question was looked at again
    (results / "start.csv.gz").unlink()
    assert main(words) == 0  # from the answers on disk
    assert (results / "start.csv.gz").read_bytes() == before


def test_a_table_of_another_policy_is_refused(
    lexicon: None, trained: tuple[Path, ClaimPlan], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, plan = trained
    words = ["--plan", str(path), "--results", str(tmp_path / "results")]
    assert main(words) == 0
    arguments = plan.output / "start" / "args.json"
    arguments.write_text(arguments.read_text().replace('"3"', '"4"'))
    capsys.readouterr()
    assert main(words) == 2
    assert "of other settings_digest than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nobody"], "is not a run of the plan"), (["sft-seed1"], "is not finished"), (["--part", "3/2"], "must be i/n")],
)
def test_runs_that_cannot_be_measured_are_named(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    path, _ = small_plan(tmp_path)
    assert main([*words, "--plan", str(path), "--results", str(tmp_path / "results")]) == 2
    assert message in capsys.readouterr().err
