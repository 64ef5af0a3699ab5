"""The audit tools as they are run: tools/00_GT_kg.py, 01_MIMIC_kg.py, 02_hall_kg.py and get_kg_metric.sh."""

import json
import logging
import os
import subprocess
import sys

import pytest

from tests.support.builders import ROOT
from tools.kg_audit.commands import hallucination_audit, output_path, reference_graphs, report_graphs
from tools.kg_audit.graph_files import info_path, read_graphs
from utils import get_knowledge_graph as door
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name

pytestmark = pytest.mark.usefixtures("lexicon")

SMALL = "There is a small left pleural effusion."
NONE = "No pneumothorax is seen."
THINK = "<think>{}</think><answer>yes</answer>"


def result(number, text, truth=SMALL, **fields):
    return {
        "idx": number,
        "subject_id": f"p{number}",
        "study_id": f"s10{number}",
        "question": "?",
        "semantic_type": ("verify", "query")[number % 2],
        "explanation": THINK.format(truth),
        "generated_text": THINK.format(text),
        **fields,
    }


RESULTS = [
    result(0, SMALL),
    result(1, "There is pneumothorax."),
    result(2, "", truth=NONE),
    result(3, "There is effusion and edema."),
]


def write(path, results=RESULTS, **facts):
    path.write_text(json.dumps({"results": results, **facts}), encoding="utf-8")
    return path


def metrics(path):
    return json.loads(output_path(path, "kg_metrics", None).read_text(encoding="utf-8"))


def test_the_audit_of_a_result_file_by_hand(tmp_path, capsys):
    path = write(tmp_path / "run_results.json", checkpoint="run", dataset="test")
    assert hallucination_audit(["--results", str(path)]) == 0
    document = metrics(path)
    assert document["results"] == [str(path)]
    assert (document["checkpoint"], document["control"], document["kg_text"]) == ("run", "none", "think")
    assert document["extractor"] == extractor_name()
    assert (document["questions"], document["patients"], document["with_report"]) == (4, 4, 0)
    # Claims: effusion; pneumothorax; none; effusion and edema. Invented: -, pneumothorax, -, edema.
    assert document["scores"]["hallucination"]["per_question"]["mean"] == pytest.approx((0 + 1 + 0 + 1 / 2) / 4)
    assert document["scores"]["hallucination"]["pooled"]["mean"] == pytest.approx(2 / 4)
    # The references assert an effusion three times; the second answer leaves it out.
    assert document["scores"]["omission"]["pooled"]["mean"] == pytest.approx(1 / 3)
    assert set(document["breakdown"]["semantic_type"]) == {"verify", "query"}
    assert [(row["text"], row["count"], row["of"]) for row in document["hallucinated"]] == [
        ("edema", 1, 1),
        ("pneumothorax", 1, 1),
    ]
    assert document["examples"][0] == {
        "dataset": "test", "idx": "1", "hallucinated": ["pneumothorax"], "omitted": ["effusion"]
    }  # fmt: skip
    assert "4 questions about 4 patients" in capsys.readouterr().out


def test_graph_files_are_in_result_order_beside_the_results(tmp_path):
    path = write(tmp_path / "run_results.json")
    reference_graphs(["--results", str(path)])
    hallucination_audit(["--results", str(path)])
    names = ["run_results_gt_kg.json", "run_results_hall_kg.json"]
    truth, said = (json.loads((tmp_path / "kg" / name).read_text()) for name in names)
    assert truth == extract_knowledge_graph([SMALL, SMALL, NONE, SMALL])
    assert said == extract_knowledge_graph([SMALL, "There is pneumothorax.", "", "There is effusion and edema."])


def test_another_checkpoints_graphs_are_never_used(tmp_path, capsys):
    """The published audit took the last checkpoint's graphs where a file of the name was there."""
    path = write(tmp_path / "run_results.json")
    hallucination_audit(["--results", str(path)])
    first = metrics(path)
    write(path, [row | {"generated_text": THINK.format(SMALL)} for row in RESULTS])
    assert hallucination_audit(["--results", str(path)]) == 2
    assert "other texts" in capsys.readouterr().err
    assert hallucination_audit(["--results", str(path), "--overwrite"]) == 0
    assert metrics(path)["scores"]["hallucination"] != first["scores"]["hallucination"]


def test_whole_texts_can_be_audited(tmp_path):
    rows = [result(0, SMALL, generated_text="Edema. " + THINK.format(SMALL))]
    path = write(tmp_path / "run_results.json", rows)
    for reading, rate in (("think", 0.0), ("whole", 0.5)):
        hallucination_audit(["--results", str(path), "--kg_text", reading, "--output_dir", str(tmp_path / reading)])
        document = json.loads((tmp_path / reading / "run_results_kg_metrics.json").read_text())
        assert document["scores"]["hallucination"]["per_question"]["mean"] == rate


def test_several_files_are_audited_together(tmp_path):
    paths = [
        write(
            tmp_path / f"{n}_results.json", [row | {"idx": 10 * n + row["idx"]} for row in RESULTS[: 2 * n]], dataset=n
        )
        for n in (1, 2)
    ]
    assert hallucination_audit(["--results", *map(str, paths)]) == 0
    document = json.loads((tmp_path / "kg" / "kg_metrics.json").read_text())
    assert document["questions"] == 6
    assert document["patients"] == 4
    assert {name: group["questions"] for name, group in document["breakdown"]["dataset"].items()} == {"2": 4, "1": 2}


@pytest.mark.parametrize("facts", [{"checkpoint": "other"}, {"checkpoint": "run", "control": "shuffled"}])
def test_files_of_several_runs_are_no_one_audit(tmp_path, capsys, facts):
    paths = [write(tmp_path / "a_results.json", checkpoint="run"), write(tmp_path / "b_results.json", **facts)]
    assert hallucination_audit(["--results", *map(str, paths)]) == 2
    assert "2 runs" in capsys.readouterr().err
    assert not (tmp_path / "kg").exists()


def test_references_may_come_from_the_annotation_file(tmp_path, capsys):
    path = write(tmp_path / "run_results.json")
    annotations = tmp_path / "test_basic_vqa.json"
    annotations.write_text(json.dumps([{k: v for k, v in row.items() if k != "generated_text"} for row in RESULTS]))
    assert reference_graphs(["--annotation_file", str(annotations), "--output_dir", str(tmp_path / "gt")]) == 0
    graphs = tmp_path / "gt" / "test_basic_vqa_gt_kg.json"
    assert hallucination_audit(["--results", str(path), "--ground_truth", str(graphs)]) == 0
    assert not output_path(path, "gt_kg", None).exists()
    write(path, RESULTS[::-1])
    assert hallucination_audit(["--results", str(path), "--ground_truth", str(graphs), "--overwrite"]) == 2
    assert "other texts" in capsys.readouterr().err


def test_training_files_have_references_too(tmp_path):
    rows = [
        {"images": ["a.png"], "messages": [{"role": "user", "content": "?"}], "solution": THINK.format(SMALL)},
        {"question": "?", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": NONE}]},
    ]
    path = tmp_path / "1000.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert reference_graphs(["--annotation_file", str(path)]) == 0
    assert read_graphs(output_path(path, "gt_kg", None)) == extract_knowledge_graph([SMALL, NONE])


def test_reports_say_what_is_no_invention(tmp_path):
    path = write(tmp_path / "run_results.json")
    reports = tmp_path / "files"
    reports.mkdir()
    (reports / "s101.txt").write_text("INDICATION: edema\nFINDINGS: There is a pneumothorax.\n", encoding="utf-8")
    (reports / "s103.txt").write_text("FINDINGS: No edema.\nIMPRESSION: No edema\n", encoding="utf-8")
    assert report_graphs(["--reports", str(reports), "--results", str(path)]) == 0
    graphs = output_path(path, "mimic_kg", None)
    texts = ["", "There is a pneumothorax.", "", "No edema.\nNo edema."]
    assert read_graphs(graphs) == extract_knowledge_graph(texts)
    assert hallucination_audit(["--results", str(path), "--report_graphs", str(graphs)]) == 0
    document = metrics(path)
    assert document["with_report"] == 2
    # Of the two questions with a report: the pneumothorax is in it; edema, of effusion and edema, is not.
    assert document["scores"]["hallucination_with_report"]["per_question"]["mean"] == 0.25


def test_a_comparison_takes_the_reports_of_both_studies(tmp_path):
    path = write(tmp_path / "run_results.json", [result(0, SMALL, study_id=["s1", 2])])
    reports = tmp_path / "r.jsonl"
    reports.write_text('{"study_id": 1, "report": "Edema"}\n{"study_id": "s2", "report": "Nodule"}')
    report_graphs(["--reports", str(reports), "--results", str(path)])
    (graph,) = read_graphs(output_path(path, "mimic_kg", None))
    assert list(graph["entities"]) == ["edema", "nodule"]


def test_without_questions_all_reports_are_read(tmp_path):
    reports = tmp_path / "r.jsonl"
    reports.write_text('{"study_id": 7, "report": "Edema"}\n{"study_id": "s2", "report": "Nodule"}')
    report_graphs(["--reports", str(reports)])
    path = output_path(reports, "mimic_kg", None)
    assert [list(graph["entities"]) for graph in read_graphs(path)] == [["edema"], ["nodule"]]
    assert json.loads(info_path(path).read_text())["names"] == ["7", "2"]


@pytest.mark.parametrize(
    ("command", "rows", "flags", "words"),
    [
        (hallucination_audit, [result(0, SMALL, explanation=3)], [], ["result 0", "'explanation'"]),
        (
            hallucination_audit,
            [result(0, SMALL, generated_text=None)] * 3,
            [],
            ["result 0", "'generated_text'", "2 more"],
        ),
        (hallucination_audit, [], [], ["results"]),
        (hallucination_audit, RESULTS, ["--results", "RUN", "RUN"], ["a file twice"]),
        (hallucination_audit, RESULTS, ["--ground_truth", "a", "b"], ["--ground_truth names 2 files for 1"]),
        (hallucination_audit, RESULTS, ["--report_graphs", "absent.json"], ["absent.json cannot be read"]),
        (report_graphs, RESULTS, ["--reports", "absent"], ["absent"]),
        (hallucination_audit, RESULTS, ["--overwriet"], ["--overwriet", "--help"]),
        (reference_graphs, [{"generated_text": "x", "explanation": []}], [], ["result 0", "'explanation'"]),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, capsys, command, rows, flags, words):
    path = write(tmp_path / "run_results.json", rows)
    assert command(["--results", str(path), *(str(path) if word == "RUN" else word for word in flags)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert all(word in error for word in words)


def test_reports_of_none_of_the_studies_are_an_error(tmp_path, capsys):
    path = write(tmp_path / "run_results.json")
    (tmp_path / "r.jsonl").write_text('{"study_id": 7, "report": "Edema"}')
    assert report_graphs(["--reports", str(tmp_path / "r.jsonl"), "--results", str(path)]) == 2
    assert "has no report of these studies" in capsys.readouterr().err


def test_an_annotation_that_is_not_a_record_is_named(tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([RESULTS[0], {"question": "?"}, 3]))
    assert reference_graphs(["--annotation_file", str(path)]) == 2
    assert "record 2: a record is an object" in capsys.readouterr().err


BARE = [result(number, SMALL, explanation=text) for number, text in ((7, "<answer>No</answer>"), (8, ""), (9, None))]


def test_questions_without_reasoning_do_not_count_in_an_audit(tmp_path, caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    alone, mixed = write(tmp_path / "alone_results.json"), write(tmp_path / "mixed_results.json", [*RESULTS, *BARE])
    for path in (alone, mixed):
        assert reference_graphs(["--results", str(path)]) == 0
        assert hallucination_audit(["--results", str(path)]) == 0
    logging.getLogger("chex").removeHandler(caplog.handler)
    scores = [json.loads(output_path(path, "kg_metrics", None).read_text()) for path in (alone, mixed)]
    assert scores[0]["questions"] == scores[1]["questions"] == len(RESULTS)
    assert scores[0]["scores"] == scores[1]["scores"]
    assert len(read_graphs(output_path(mixed, "gt_kg", None))) == len(RESULTS) + 3  # the position names the question
    assert f"3 of {len(RESULTS) + 3} questions have no explanation with reasoning" in caplog.text


def test_a_file_without_reasoning_is_passed_over_with_a_word(tmp_path, caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    path = write(tmp_path / "run_results.json", BARE)
    assert reference_graphs(["--results", str(path)]) == 0
    assert hallucination_audit(["--results", str(path)]) == 0
    logging.getLogger("chex").removeHandler(caplog.handler)
    assert not output_path(path, "gt_kg", None).exists()
    assert not output_path(path, "kg_metrics", None).exists()
    assert "there is nothing to audit" in caplog.text


def test_a_wrong_extractor_is_one_line_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("REXKG_EXTRACTOR", "nueral")
    door._extractor.cache_clear()
    assert hallucination_audit(["--results", str(write(tmp_path / "run_results.json"))]) == 2
    assert capsys.readouterr().err.startswith("error: REXKG_EXTRACTOR")


def run_script(*words, **environment):
    settings = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run([str(word) for word in words], env=settings, capture_output=True, text=True, timeout=120)


def test_the_shell_script_runs_all_steps_for_every_file_of_a_folder(tmp_path):
    for name in ("a", "b c"):
        write(tmp_path / f"{name}_results.json")
    (tmp_path / "r.jsonl").write_text('{"study_id": "s103", "report": "Edema"}')
    done = run_script(ROOT / "get_kg_metric.sh", tmp_path, REPORTS=str(tmp_path / "r.jsonl"))
    assert done.returncode == 0, done.stderr
    for name in ("a", "b c"):
        document = metrics(tmp_path / f"{name}_results.json")
        assert document["with_report"] == 1
    again = run_script(ROOT / "get_kg_metric.sh", tmp_path / "a_results.json", REPORTS=str(tmp_path / "r.jsonl"))
    assert again.returncode == 0
    assert again.stderr.count("kept") == 4  # references twice, reports, generated texts


def test_the_shell_script_goes_on_after_a_bad_file_and_fails_at_the_end(tmp_path):
    (tmp_path / "a_results.json").write_text("{}")
    write(tmp_path / "b_results.json")
    done = run_script(ROOT / "get_kg_metric.sh", tmp_path, OUTPUT_DIR=str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: failed: {tmp_path}/a_results.json"
    assert (tmp_path / "out" / "b_results_kg_metrics.json").exists()


def test_the_shell_script_can_audit_a_folder_as_one(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}_results.json")
    done = run_script(ROOT / "get_kg_metric.sh", tmp_path, TOGETHER="true", KG_TEXT="whole")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "kg" / "kg_metrics.json").read_text())
    assert (document["questions"], document["patients"], document["kg_text"]) == (8, 4, "whole")


def test_the_shell_script_names_an_empty_folder(tmp_path):
    done = run_script(ROOT / "get_kg_metric.sh", tmp_path)
    assert done.returncode == 2
    assert "holds no *_results.json" in done.stderr
