"""Result tables, outcomes, verdicts, and the document that is computed from them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.claim.analyze import main, read_tables
from experiments.claim.bootstrap import Estimate
from experiments.claim.comparisons import Verdict, compare_all, verdict_on
from experiments.claim.effects import VERDICT_COLORS, effects_figure
from experiments.claim.outcomes import OUTCOMES, cell_sums
from experiments.claim.plan import RESULTS, ClaimPlan, PlanCell, read_plan
from experiments.claim.report import cells_section, fill_sections, runs_section, training_section
from experiments.claim.tables import (
    AskedQuestions,
    RunTable,
    read_asked_questions,
    read_run_table,
    write_asked_questions,
    write_run_table,
)
from swift.utils.errors import UserError
from tests.support.builders import ROOT
from tests.support.experiments.claim import asked_questions, small_plan, write_results

SECTIONS = ("runs", "claims", "verdicts", "cells", "outcomes", "power", "training")
MARKERS = "".join(f"<!-- claim:{name} -->\nold\n<!-- claim:end -->\n" for name in SECTIONS)


def figures(cell: PlanCell, seed: int, question: int) -> dict[str, float]:
    """The graph reward gets two questions in three right, the others one in three; seeds are alike."""
    right = question % 3 != 0 if cell.rewards == "graph" else question % 3 == 0
    judged = {"true": 2, "false": 1, "asserted": 2, "invented": 1, "unjudged": 0, "sound": 0}
    answered = dict.fromkeys(("exact_set", "kg_f1", "kg_jaccard", "format", "hallucination", "omission"), 0.5)
    return {
        "answer_overlap": float(right), "length": 20.0, "samples": 8, "right": 4.0 * right, **answered,
        **(judged if question % 3 != 2 else {}),
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, Path, ClaimPlan]:
    path, plan = small_plan(tmp_path)
    write_results(tmp_path / "results", plan, figures)
    return tmp_path / "results", path, plan


def read_all(folder: Path, plan: ClaimPlan) -> tuple[dict[str, RunTable], dict[str, AskedQuestions]]:
    questions = read_asked_questions(folder)
    return {run.tag: read_run_table(folder, run.tag, questions) for run in plan.runs()}, questions


def test_a_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_asked_questions(tmp_path, asked_questions("home", 1))
    rows = [("home", "1", {"length": 3.0, "true": 0.1234567}), ("blank", "0", {"format": 1.0, "kg_f1": math.nan})]
    write_run_table(tmp_path, {"tag": "start", "seed": None}, rows)
    table = read_run_table(tmp_path, "start", read_asked_questions(tmp_path))
    assert table.record == {"tag": "start", "seed": None}
    assert table.values["home"]["length"] == pytest.approx([math.nan, 3, math.nan], nan_ok=True)
    assert table.values["home"]["true"][1] == 0.123457
    assert table.values["blank"]["format"][0] == 1
    assert np.isnan(table.values["blank"]["kg_f1"]).all()


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run_table(tmp_path / name, {"tag": "start"}, [("home", "0", {"length": 3.0})])
    assert (tmp_path / "a" / "start.csv.gz").read_bytes() == (tmp_path / "b" / "start.csv.gz").read_bytes()


def test_results_of_other_questions_are_refused(tmp_path: Path) -> None:
    write_asked_questions(tmp_path, asked_questions("home", 1))
    with pytest.raises(UserError, match="other questions"):
        write_asked_questions(tmp_path, asked_questions("home", 2))
    write_run_table(tmp_path, {"tag": "start"}, [("home", "77", {})])
    with pytest.raises(UserError, match=r"start\.csv\.gz: question 77 is not in"):
        read_run_table(tmp_path, "start", read_asked_questions(tmp_path))


def test_a_run_that_was_not_measured_has_no_table(tmp_path: Path) -> None:
    write_asked_questions(tmp_path, asked_questions("home", 1))
    assert read_run_table(tmp_path, "start", read_asked_questions(tmp_path)) is None


def test_outcomes_are_ratios_of_sums(results: tuple[Path, Path, ClaimPlan]) -> None:
    """Each patient has three questions, the last a comparison, which has no drawn truth.

    Under the graph reward two of three are right (and half of their samples), 2 of 3 claims are true, and 1 of 2
    asserted findings is invented.
    """
    folder, _, plan = results
    tables, questions = read_all(folder, plan)
    own = [tables["graph-sum-uniform-16-seed1"], tables["graph-sum-uniform-16-seed2"]]

    def value(name: str) -> float:
        return cell_sums(own, OUTCOMES[name], questions).ratio

    assert value("accuracy") == pytest.approx(2 / 3)
    assert value("accuracy_compare") == 1.0
    assert value("accuracy_basic") == 0.0
    assert value("accuracy_yes") == 1.0
    assert math.isnan(value("accuracy_no"))  # no question has that answer
    assert value("truth") == pytest.approx(2 / 3)
    assert value("invented") == pytest.approx(1 / 2)
    assert value("sampled") == pytest.approx(1 / 3)
    assert value("pass") == pytest.approx(2 / 3)
    assert value("gap") == pytest.approx(0.0)
    assert value("looking_blank") == pytest.approx(0.0)
    assert cell_sums(own, OUTCOMES["accuracy"], questions).numerators.tolist() == [[2.0] * 4] * 2


def test_a_contrast_is_the_difference_of_the_cells(results: tuple[Path, Path, ClaimPlan]) -> None:
    """2/3 - 1/3 = 1/3 by hand; GRPO's mean (2/3 + 1/3) / 2 less SFT's 1/3 is 1/6. Nothing varies."""
    folder, _, plan = results
    compared = {(one.contrast.name, one.outcome): one for one in compare_all(plan, *read_all(folder, plan))}
    graph, sft = compared["graph reward", "accuracy"], compared["GRPO against SFT", "accuracy"]
    assert (graph.estimate.effect, graph.estimate.lo) == pytest.approx((1 / 3, 1 / 3))
    assert sft.estimate.effect == pytest.approx(1 / 6)
    assert (graph.confirmatory, graph.verdict, graph.seeds) == (True, Verdict.SUPPORTED, (1, 2))
    assert not compared["graph reward", "kg_jaccard"].confirmatory


def test_the_picture_of_effects_has_a_row_per_contrast_and_the_color_of_its_verdict(
    results: tuple[Path, Path, ClaimPlan],
) -> None:
    folder, _, plan = results
    shown = [one for one in compare_all(plan, *read_all(folder, plan)) if one.outcome == "accuracy"]
    axes = effects_figure(shown, ["accuracy"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["graph reward", "GRPO against SFT"]
    drawn = {bar[0].get_ydata()[0]: (bar[0].get_xdata()[0], bar[0].get_color()) for bar in axes.containers}
    assert drawn[0] == (pytest.approx(1 / 3), VERDICT_COLORS[Verdict.SUPPORTED])
    assert drawn[1][0] == pytest.approx(1 / 6)


def test_seeds_that_a_cell_lacks_are_left_out(results: tuple[Path, Path, ClaimPlan]) -> None:
    folder, _, plan = results
    tables, questions = read_all(folder, plan)
    del tables["accuracy-sum-uniform-16-seed1"]
    compared = compare_all(plan, tables, questions)
    assert {one.seeds for one in compared} == {(2,)}
    none = compare_all(plan, {"start": tables["start"]}, questions)
    assert {(one.estimate, one.verdict) for one in none} == {(None, Verdict.NONE)}


@pytest.mark.parametrize(
    ("effect", "lo", "hi", "corrected", "better", "expected"),
    [
        pytest.param(0.05, 0.02, 0.08, 0.01, 1, Verdict.SUPPORTED, id="clearly better"),
        pytest.param(-0.05, -0.08, -0.02, 0.01, 1, Verdict.WORSE, id="clearly worse"),
        pytest.param(-0.05, -0.08, -0.02, 0.01, -1, Verdict.SUPPORTED, id="clearly less of what is bad"),
        pytest.param(0.05, 0.01, 0.09, 0.06, 1, Verdict.UNDECIDED, id="not after correction"),
        pytest.param(0.00, -0.015, 0.015, 1.0, 1, Verdict.NOT_SUPPORTED, id="no room for an effect that matters"),
        pytest.param(0.00, -0.015, 0.025, 1.0, 1, Verdict.UNDECIDED, id="room for an effect that matters"),
        pytest.param(0.00, -0.025, 0.015, 1.0, -1, Verdict.UNDECIDED, id="room for less of what is bad"),
    ],
)
def test_verdicts(effect: float, lo: float, hi: float, corrected: float, better: int, expected: Verdict) -> None:
    estimate = Estimate(effect, lo, hi, corrected, 0.01, 4.0, 0, 0, 0, 5, 100)
    assert verdict_on(estimate, corrected, better, smallest=0.02) == expected


def test_the_document_is_computed_from_the_results_alone_and_again_the_same(
    results: tuple[Path, Path, ClaimPlan], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, plan_file, _ = results
    document = tmp_path / "docs" / "experiment.md"
    document.parent.mkdir()
    document.write_text(f"# Experiment\n\n{MARKERS}end\n")
    words = ["--plan", str(plan_file), "--results", str(folder), "--write", str(document)]
    assert main(words) == 0
    first = document.read_text()
    assert "old" not in first
    assert "| graph reward | accuracy | +0.333 [+0.333, +0.333] |" in first
    assert "| graph-sum-uniform-16 | 2 | 0.667 (0.000) |" in first
    assert first.startswith("# Experiment\n")
    assert first.endswith("end\n")
    pictures = {path.name: path.read_bytes() for path in (document.parent / "images").iterdir()}
    assert set(pictures) == {"claim_effects.png", "claim_sizes.png", "claim_steps.png"}
    assert main(words) == 0
    assert document.read_text() == first
    assert "graph reward" in capsys.readouterr().out


def test_the_document_of_the_experiment_holds_the_numbers_of_its_results() -> None:
    """The sections without a bootstrap are computed anew; the others take half a minute."""
    document = (ROOT / "docs" / "experiment.md").read_text()
    assert set(re.findall(r"<!-- claim:(\w+) -->", document)) == {*SECTIONS, "end"}
    if not (RESULTS / "runs.json").exists():
        assert document.count("No runs are measured yet.") == len(SECTIONS)
        return
    plan = read_plan()
    questions = read_asked_questions(RESULTS)
    tables = read_tables(plan, RESULTS, questions)
    machine = json.loads((RESULTS / "machine.json").read_text())
    for section in (
        runs_section(plan, tables, questions, machine),
        cells_section(plan, tables, questions),
        training_section(plan, tables),
    ):
        assert section.strip() in document


def test_what_cannot_be_analyzed_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, _ = small_plan(tmp_path)
    assert main(["--plan", str(path), "--results", str(tmp_path / "none")]) == 2
    assert "measure the runs" in capsys.readouterr().err
    with pytest.raises(UserError, match="claim:verdict is unknown"):
        fill_sections("<!-- claim:verdict -->\n<!-- claim:end -->", {"verdicts": ""})
