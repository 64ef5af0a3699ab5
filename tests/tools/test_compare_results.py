"""The table, summary.json, metrics.json and exports of small runs."""

import csv
import json

import numpy as np
import pytest
from scipy.stats import binomtest

from swift.utils.logger import get_logger
from tests.support.report_runs import TRUTH, WRONG, result, run_flags, write, write_runs
from tools import compare_results, evaluation_report
from tools.reports.numbers import breakdown, compute_numbers, metric_table
from tools.reports.result_files import EvaluatedRun, find_files, load_runs, question_name
from utils.get_knowledge_graph import extractor_name


def compare(files, output, *flags) -> int:
    return compare_results.main(run_flags(files, output, *flags))


@pytest.fixture
def files(tmp_path):
    return write_runs(tmp_path)


def read_summary(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_summary_has_exactly_the_documented_fields(files, tmp_path):
    assert compare(files, tmp_path / "out", "--seconds", "12.5") == 0
    summary = read_summary(tmp_path / "out")
    assert set(summary) == {"sft", "grpo", "blind", "difference", "seconds", "extractor"}
    for name in ("sft", "grpo", "blind", "difference"):
        assert set(summary[name]) == {"accuracy", "kg_jaccard", "entity_f1", "length"}
        assert all(set(interval) == {"mean", "lo", "hi"} for interval in summary[name].values())
    assert summary["seconds"] == 12.5
    assert summary["extractor"] == extractor_name()


def test_means_are_those_of_the_runs_and_the_difference_is_grpo_minus_sft(files, tmp_path):
    compare(files, tmp_path / "out")
    summary = read_summary(tmp_path / "out")
    assert summary["sft"]["accuracy"]["mean"] == pytest.approx(3 / 6)
    assert summary["grpo"]["accuracy"]["mean"] == pytest.approx(5 / 6)
    assert summary["blind"]["accuracy"]["mean"] == pytest.approx(2 / 6)
    assert summary["difference"]["accuracy"]["mean"] == pytest.approx(2 / 6)
    assert summary["sft"]["length"]["mean"] == 12.5
    # by patient: SFT (2, 1, 0) of 2 right, GRPO (2, 1, 2): the differences lie between 0 and 1
    assert 0 <= summary["difference"]["accuracy"]["lo"] <= summary["difference"]["accuracy"]["hi"] <= 1


def test_runs_are_paired_by_question_not_by_position(files, tmp_path):
    compare(files, tmp_path / "in order")
    document = json.loads(files["grpo"].read_text())
    files["grpo"].write_text(json.dumps(document | {"results": document["results"][::-1]}))
    compare(files, tmp_path / "reversed")
    assert read_summary(tmp_path / "in order") == read_summary(tmp_path / "reversed")


def test_the_same_number_in_two_files_is_two_questions(files, tmp_path):
    paths = [files["sft"], write(tmp_path / "region.json", [result(0, WRONG, "x.png")], "test_region_vqa")]
    assert len(load_runs({"sft": paths})["sft"].results) == 7


def test_table_has_a_line_a_metric_and_a_column_a_run(files, tmp_path, capsys):
    compare(files, tmp_path / "out")
    head, columns, *rows, grpo, blind = capsys.readouterr().out.splitlines()
    assert head == "6 questions about 3 patients; mean [95% interval]"
    assert columns.split("   ")[-1] == "GRPO - SFT"
    assert [row.split()[0] for row in rows] == ["accuracy", "kg_jaccard", "entity_f1", "length"]
    assert rows[0].split()[1] == "0.500"
    assert "+0.333 [" in rows[0]
    assert grpo.startswith("GRPO against SFT: accuracy +0.333 [")
    assert blind.startswith("blind against SFT: accuracy -0.167 [")


def test_without_a_blind_run_it_is_left_out(files, tmp_path):
    del files["blind"]
    assert compare(files, tmp_path / "out") == 0
    assert "blind" not in read_summary(tmp_path / "out")


def test_metrics_that_cannot_be_computed_are_left_out(files, tmp_path):
    for path in files.values():
        document = json.loads(path.read_text())
        for row in document["results"]:
            row["explanation"] = None
        path.write_text(json.dumps(document))
    assert compare(files, tmp_path / "out") == 0
    assert set(read_summary(tmp_path / "out")["grpo"]) == {"accuracy", "length"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", ["cannot be read"]),
        ("[]", ["result file", "is not a JSON object"]),
        ('{"results": []}', ["has no list 'results'"]),
        ('{"results": [{"question": "?", "num_tokens": 1}]}', ["result 0", "'generated_text'"]),
        ('{"results": [3]}', ["result 0", "'question'"]),
        (json.dumps({"results": [result(0, TRUTH, "x.png")] * 2}), ["question 0", "comes twice"]),
        (json.dumps({"results": [result(9, TRUTH, "x.png")]}), ["different questions"]),
        (
            json.dumps({"dataset": "test_basic_vqa", "results": [result(n, TRUTH, "x", answer={}) for n in range(6)]}),
            ["grpo cannot be scored", "'answer'"],
        ),
    ],
)
def test_files_that_cannot_be_compared_are_one_line_and_status_2(files, tmp_path, capsys, content, words):
    files["grpo"].write_text(content)
    assert compare(files, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words)
    assert not (tmp_path / "out").exists()


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_any_number_of_named_runs_is_compared_with_any_baseline(files, tmp_path, capsys):
    runs = [word for name in ("sft", "grpo", "blind") for word in ("--run", f"{name} run={files[name]}")]
    assert compare_results.main([*runs, "--baseline", "grpo run", "--output", str(tmp_path / "out")]) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    # right of 6: sft 0 1 2, grpo 0 1 3 4 5, blind 4 5. Against grpo: sft gains 2 and loses 3 4 5, blind loses 0 1 3
    assert first.startswith("sft run against grpo run: accuracy -0.333 [")
    assert first.endswith("1 questions gained, 3 lost, McNemar's exact p = 0.62")
    assert "blind run against grpo run: accuracy -0.500" in second
    assert f"0 questions gained, 3 lost, McNemar's exact p = {binomtest(0, 3).pvalue:.2g}" in second
    summary = read_summary(tmp_path / "out")
    assert set(summary) == {"sft run", "grpo run", "blind run", "difference", "seconds", "extractor"}
    assert summary["difference"]["accuracy"]["mean"] == pytest.approx(-2 / 6)


def test_metrics_json_has_every_metric_of_every_run_and_kind(files, tmp_path):
    compare(files, tmp_path / "out")
    document = metrics(tmp_path / "out")
    assert (document["questions"], document["patients"], document["baseline"]) == (6, 3, "sft")
    grpo = document["runs"]["grpo"]
    assert {"accuracy", "substring", "exact_set", "kg_jaccard", "entity_f1", "length", "format"} <= grpo[
        "metrics"
    ].keys()
    assert grpo["by"]["semantic_type"]["verify"]["count"] == 6
    assert grpo["by"]["semantic_type"]["verify"]["accuracy"] == grpo["metrics"]["accuracy"]
    assert grpo["files"] == [{"dataset": "test_basic_vqa", "checkpoint": "grpo"}]
    pairs = {(comparison["run"], comparison["baseline"]): comparison for comparison in document["comparisons"]}
    assert len(pairs) == 6
    there, back = pairs["grpo", "sft"], pairs["sft", "grpo"]
    assert there["mcnemar"]["answer_overlap"] == {"gained": 3, "lost": 1, "p_value": pytest.approx(0.625)}
    assert there["difference"]["accuracy"]["lo"] == pytest.approx(-back["difference"]["accuracy"]["hi"])


def test_many_runs_are_compared_with_the_baseline_only():
    results = [{"subject_id": n} for n in range(4)]
    runs = {name: EvaluatedRun(name, [], results, {"accuracy": np.array([1.0, 0, 1, 0])}) for name in "abcdef"}
    pairs = [(comparison.run, comparison.baseline) for comparison in compute_numbers(runs, "c").comparisons]
    assert pairs == [("a", "c"), ("b", "c"), ("d", "c"), ("e", "c"), ("f", "c")]


def test_questions_without_a_value_do_not_count_for_its_mean():
    results = [{"subject_id": n} for n in range(4)]
    nan = float("nan")
    columns = {"a": np.array([nan, 0.5, 1.0, -np.inf]), "b": np.array([1.0, 1.0, nan, -np.inf])}
    runs = {
        name: EvaluatedRun(name, [], results, {"accuracy": np.ones(4), "share": column})
        for name, column in columns.items()
    }
    numbers = compute_numbers(runs)
    assert numbers.summary["a"]["share"].mean == 0.75
    assert numbers.against("b", "a").difference["share"].mean == 0.5  # of the one question that both have
    nothing = compute_numbers({"a": EvaluatedRun("a", [], results, {"accuracy": np.ones(4), "share": np.full(4, nan)})})
    assert nothing.summary["a"]["share"] is None
    assert metric_table(nothing, {"a": "A"})[2] == ["share", ""]


def test_tables_are_written_as_csv_latex_and_markdown(files, tmp_path):
    compare(files, tmp_path / "out")
    with (tmp_path / "out" / "table.csv").open(newline="") as stream:
        rows = {row["metric"]: row for row in csv.DictReader(stream)}
    assert float(rows["accuracy"]["SFT"]) == 0.5
    assert float(rows["accuracy"]["GRPO - SFT"]) == pytest.approx(1 / 3, abs=1e-5)
    interval = read_summary(tmp_path / "out")["grpo"]["accuracy"]
    assert float(rows["accuracy"]["GRPO, low"]) == pytest.approx(interval["lo"], abs=1e-5)
    latex = (tmp_path / "out" / "table.tex").read_text()
    assert r"metric & SFT & GRPO & blind & GRPO - SFT & blind - SFT \\" in latex
    assert "accuracy & 0.500 [" in latex
    assert "| KG Jaccard |" in (tmp_path / "out" / "table.md").read_text()


def test_one_run_has_a_report_of_its_own(files, tmp_path, capsys):
    assert evaluation_report.main([str(files["grpo"]), "--name", "tuned", "--output", str(tmp_path / "out")]) == 0
    document = metrics(tmp_path / "out")
    assert document["runs"]["tuned"]["metrics"]["accuracy"]["mean"] == pytest.approx(5 / 6)
    assert document["comparisons"] == []
    assert "accuracy" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html", "table.csv", "table.tex", "table.md", "metrics.json",
    }  # fmt: skip


def test_a_folder_or_a_pattern_stands_for_its_result_files(tmp_path):
    names = ["a_results.json", "b_results.json", "b_token_prob.json", "b_token_prob.run.json", "other.json"]
    for name in [*names, "b_given_answer_token_prob.json"]:
        (tmp_path / name).write_text("{}")
    # b with token probabilities has all that b without them has
    assert [path.name for path in find_files([tmp_path])] == ["a_results.json", "b_token_prob.json"]
    kept = tmp_path / "c_given_name_token_prob.json"  # a data set of that name
    for given in (None, "answer"):
        kept.write_text(json.dumps({"settings": {"given": given}}))
        assert (kept in find_files([tmp_path])) == (given is None)
    (tmp_path / "c_given_name_results.json").write_text("{}")
    kept.unlink()
    assert "c_given_name_results.json" in [path.name for path in find_files([tmp_path])]
    assert [path.name for path in find_files([tmp_path / "[ab]_results.json"])] == ["a_results.json", "b_results.json"]


def test_a_folder_of_several_evaluations_says_which_pattern_is_which(tmp_path, capsys):
    for checkpoint, control in (("a", "none"), ("a", "shuffled"), ("b", "none")):
        for name in ("basic", "compare"):
            ending = "results" if control == "none" else f"{control}_results"
            document = {"dataset": name, "checkpoint": checkpoint, "control": control, "decoding": "greedy",
                        "results": [result(0, TRUTH, "x.png")]}  # fmt: skip
            (tmp_path / f"{checkpoint}_{name}_{ending}.json").write_text(json.dumps(document))
    assert evaluation_report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "these files are of 2 evaluations, pass those of one" in said
    # the control comes with its checkpoint
    assert f"(a: '{tmp_path}/a_*_results.json'; b: '{tmp_path}/b_*_results.json')" in said


def test_runs_of_different_settings_are_compared_with_a_warning(files, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)  # caplog listens at the root
    same = {"weights": ["w"], "control": "none", "format": 1, "max_new_tokens": 64, "seed": 0}
    for name, settings in (("sft", same), ("grpo", same | {"weights": ["v"], "control": "shuffled", "format": 2})):
        document = json.loads(files[name].read_text())
        files[name].write_text(json.dumps(document | {"settings": settings}))
    assert compare(files, tmp_path / "out") == 0
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    document = json.loads(files["blind"].read_text())
    files["blind"].write_text(json.dumps(document | {"settings": same | {"max_new_tokens": 256}}))
    assert compare(files, tmp_path / "out") == 0
    (said,) = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert "different settings" in said
    assert said.endswith(": max_new_tokens 64 in sft, 256 in blind")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--run", "{sft}"], "has no name; write --run NAME="),
        (["--run", "a={sft}", "--run", "a={grpo}"], "--run a is there twice"),
        (["--run", "seconds={sft}"], "summary.json needs itself"),
        (["--run", "a="], "--run a= has no files"),
        (["--run", "a=nowhere.json"], "no result file at nowhere.json"),
        (["--run", "a={sft}", "--baseline", "b"], "--baseline b is not among the runs (a)"),
        (["--run", "a={sft}", "--curves", "no.png"], "--curves no.png does not exist"),
        ([], "no run to report"),
    ],
)
def test_flags_that_cannot_be_met_are_one_line_and_status_2(files, tmp_path, capsys, flags, words):
    flags = [flag.format(**files) for flag in flags]
    assert compare_results.main([*flags, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "out").exists()


def test_breakdown_is_by_value_the_most_frequent_first():
    results = [{"content_type": kind, "subject_id": n} for n, kind in enumerate(["view", "size", "size", None])]
    run = EvaluatedRun("sft", [], results, {"accuracy": np.array([1.0, 1.0, 0.0, 1.0])})
    rows = breakdown({"sft": run}, "content_type", ["accuracy"])
    means = [(row["name"], row["count"], row["runs"]["sft"]["accuracy"].mean) for row in rows]
    assert means == [("size", 2, 0.5), ("view", 1, 1.0)]
    assert breakdown({"sft": run}, "semantic_type", ["accuracy"]) == []


def test_a_question_without_a_name_is_called_by_its_position():
    results = [{"idx": 7, "id": 1}, {"idx": None, "id": "a"}, {"idx": None, "id": None}, {"id": 0}, {}]
    assert [question_name(result, position) for position, result in enumerate(results)] == ["7", "a", "2", "0", "4"]
