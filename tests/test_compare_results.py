"""The table, summary.json and report.html of three small runs."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ReXKG.graph import Graph
from tools import compare_results
from tools.evaluation_report import (
    breakdown,
    choose_cases,
    compare_entities,
    fill_template,
    is_drawn,
    mark_entities,
)
from tools.result_files import Run, load_runs
from utils.get_knowledge_graph import extractor_name

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TRUTH = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"
WRONG = "<think>There is no pleural effusion. The heart is large.</think><answer>no</answer>"


def result(number, text, image, **fields):
    return {
        "id": number,
        "idx": number,
        "subject_id": f"p{number // 2}",
        "question": "Is there an effusion?",
        "answer": ["yes"],
        "explanation": TRUTH,
        "semantic_type": "verify",
        "generated_text": text,
        "num_tokens": 10 + number,
        "image_paths": [str(image)],
        **fields,
    }


@pytest.fixture
def files(tmp_path):
    """Result files of three runs over 6 questions about 3 patients: SFT has 3 right, GRPO 5, blind 2."""
    picture = tmp_path / "world" / "images" / "demo-1.png"
    picture.parent.mkdir(parents=True)
    Image.new("L", (640, 480), 90).save(picture)
    right = {"sft": {0, 1, 2}, "grpo": {0, 1, 3, 4, 5}, "blind": {4, 5}}
    paths = {}
    for run, numbers in right.items():
        results = [result(n, TRUTH if n in numbers else WRONG, picture) for n in range(6)]
        paths[run] = write(tmp_path / f"{run}.json", results)
    return paths


def write(path, results, dataset="test_basic_vqa"):
    path.write_text(json.dumps({"dataset": dataset, "checkpoint": path.stem, "results": results}), encoding="utf-8")
    return path


def compare(files, output, *flags):
    runs = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    return compare_results.main([*runs, "--output", str(output), *flags])


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
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert head == "6 questions about 3 patients; mean [95% interval]"
    assert columns.split("   ")[-1] == "GRPO - SFT"
    assert [row.split()[0] for row in rows] == ["accuracy", "kg_jaccard", "entity_f1", "length"]
    assert rows[0].split()[1] == "0.500"
    assert "+0.333 [" in rows[0]


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
        ("[]", ["has no list 'results'"]),
        ('{"results": []}', ["has no list 'results'"]),
        ('{"results": [{"question": "?", "num_tokens": 1}]}', ["result 0", "'generated_text'"]),
        ('{"results": [3]}', ["result 0", "'question'"]),
        (json.dumps({"results": [result(0, TRUTH, "x.png")] * 2}), ["question 0", "comes twice"]),
        (json.dumps({"results": [result(9, TRUTH, "x.png")]}), ["different questions"]),
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


def page_data(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])


def test_report_asks_nothing_of_the_network(files, tmp_path):
    compare(files, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "/* report." not in page
    assert "https://" not in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
    assert "default-src 'none'" in page


def test_cases_hold_both_outputs_and_what_became_of_the_question(files, tmp_path):
    compare(files, tmp_path / "out")
    data = page_data(tmp_path / "out")
    # right in SFT: 0 1 2, in GRPO: 0 1 3 4 5
    assert [case["outcome"] for case in data["cases"]] == ["both_right"] * 2 + ["broke"] + ["fixed"] * 3
    assert data["outcomes"] == {"fixed": 3, "broke": 1, "both_wrong": 0, "both_right": 2}
    broke = data["cases"][2]
    assert (broke["sft"]["right"], broke["grpo"]["right"]) == (True, False)
    assert broke["grpo"]["answer"] == "no"
    assert ["effusion", "disorder_present"] in broke["grpo"]["entities"]["missing"]
    assert ["large", "extra"] in broke["grpo"]["text"]
    assert "".join(piece for piece, _ in broke["grpo"]["text"]) == "There is no pleural effusion. The heart is large."


def test_radiographs_are_embedded_only_when_drawn_or_asked_for(files, tmp_path):
    def source(*flags):
        compare(files, tmp_path / "out", *flags)
        (uri,) = page_data(tmp_path / "out")["images"].values()  # one image, though six cases show it
        return uri

    picture = tmp_path / "world" / "images" / "demo-1.png"
    assert source() == picture.as_uri()
    assert source("--embed_images").startswith("data:image/jpeg;base64,")
    (tmp_path / "world" / "manifest.json").write_text('{"arguments": {}, "counts": {}, "sha256": "0"}')
    assert is_drawn(picture)
    assert source().startswith("data:image/jpeg;base64,")
    assert not is_drawn(picture.with_name("p10.png"))


def test_a_missing_image_is_an_error_only_where_it_must_be_embedded(files, tmp_path, capsys):
    (tmp_path / "world" / "images" / "demo-1.png").unlink()
    assert compare(files, tmp_path / "out") == 0
    assert compare(files, tmp_path / "out", "--embed_images") == 2
    assert "demo-1.png is missing" in capsys.readouterr().err


def test_text_cannot_leave_its_element():
    page = fill_template({"title": "</script><script>alert(1)</script><!--"})
    assert page.count("</script>") == 2
    assert "<!--" not in page.partition('id="data">')[2]


@pytest.mark.parametrize(
    ("text", "marks", "pieces"),
    [
        ("", {}, []),
        ("A nodule.", {}, [["A nodule.", None]]),
        ("A Nodule.", {"nodule": "matched"}, [["A ", None], ["Nodule", "matched"], [".", None]]),
        ("nodules", {"nodule": "matched"}, [["nodules", None]]),
        (
            "left upper lobe",
            {"left": "extra", "left upper": "matched"},
            [["left upper", "matched"], [" lobe", None]],
        ),
        ("a+b a", {"a+b": "extra"}, [["a+b", "extra"], [" a", None]]),
    ],
)
def test_entities_are_marked_as_whole_words(text, marks, pieces):
    assert mark_entities(text, marks) == pieces


def graph(**entities) -> Graph:
    return {"sentences": "", "entities": entities, "relations": [], "doc_key": "0"}


def test_an_entity_of_another_type_is_both_missing_and_extra():
    lists = compare_entities(
        graph(effusion="disorder_notpresent", lung="anatomy"), graph(effusion="disorder_present", lung="anatomy")
    )
    assert lists == {
        "matched": [["lung", "anatomy"]],
        "missing": [["effusion", "disorder_present"]],
        "extra": [["effusion", "disorder_notpresent"]],
    }


def test_cases_are_spread_evenly_over_outcomes_and_small_ones_give_way():
    outcomes = ["both_right"] * 50 + ["fixed"] * 20 + ["broke"] * 2
    chosen = choose_cases(outcomes, 20)
    counts = {name: sum(outcomes[position] == name for position in chosen) for name in set(outcomes)}
    assert counts == {"both_right": 9, "fixed": 9, "broke": 2}
    assert chosen == sorted(set(chosen))
    assert choose_cases(outcomes, 100) == list(range(72))


def test_breakdown_is_by_value_the_most_frequent_first():
    results = [{"content_type": kind, "subject_id": n} for n, kind in enumerate(["view", "size", "size", None])]
    run = Run("sft", [], results, {"accuracy": np.array([1.0, 1.0, 0.0, 1.0])})
    rows = breakdown({"sft": run}, "content_type")
    assert [(row["name"], row["count"], row["sft"]["mean"]) for row in rows] == [("size", 2, 0.5), ("view", 1, 1.0)]
    assert breakdown({"sft": run}, "semantic_type") == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the report with")
def test_the_page_draws_itself_in_a_browser(files, tmp_path):
    compare(files, tmp_path / "out", "--embed_images")
    page = (tmp_path / "out" / "report.html").as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *flags, page], capture_output=True, text=True, timeout=60, check=True).stdout
    assert dom.count('<article class="case">') == 6
    assert "GRPO fixed (3)" in dom
    assert '<mark class="extra">large</mark>' in dom
    assert "6 cases" in dom
