"""Figures of looking in summary.json, metrics.json, the tables, the terminal and report.html."""

from __future__ import annotations

import csv
import json

import pytest

from tests.support.browser import needs_chromium, visit
from tests.support.report_runs import write_look
from tools import compare_results, evaluation_report

# Right of 6 questions. SFT leans on the image by 3/6 - 1/6, GRPO by 5/6 - 1/6.
RIGHT = {
    ("sft", "none"): {0, 1, 2}, ("sft", "blank"): {0}, ("sft", "shuffled"): {0, 3},
    ("grpo", "none"): {0, 1, 2, 3, 4}, ("grpo", "blank"): {5},
}  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The report of two policies and their controls, which lie in the folder of each policy."""
    folder = tmp_path_factory.mktemp("looking")
    for (policy, control), right in RIGHT.items():
        write_look(folder / policy, policy, control, right)
    runs = [word for policy in ("sft", "grpo") for word in (f"--{policy}", str(folder / policy))]
    assert compare_results.main([*runs, "--output", str(folder / "out")]) == 0
    return folder / "out"


def test_summary_has_the_figures_by_run_and_control_and_their_difference(output):
    looking = json.loads((output / "summary.json").read_text())["looking"]
    assert {run: set(controls) for run, controls in looking.items()} == {
        "sft": {"blank", "shuffled"}, "grpo": {"blank"}, "difference": {"grpo"},
    }  # fmt: skip
    values = {name: value["mean"] for name, value in looking["grpo"]["blank"].items()}
    # blank: 0 to 4 turn wrong, 5 turns right
    assert values == {
        "image_reliance": pytest.approx(4 / 6), "right_only_with_image": pytest.approx(5 / 6),
        "right_only_without_image": pytest.approx(1 / 6), "changed": 1.0,
    }  # fmt: skip
    difference = looking["difference"]["grpo"]["blank"]["image_reliance"]
    assert difference["mean"] == pytest.approx(4 / 6 - 2 / 6)
    assert difference["lo"] <= difference["mean"] <= difference["hi"]


def test_metrics_json_has_every_rule_and_kind(output):
    looking = json.loads((output / "metrics.json").read_text())["looking"]
    first = looking["figures"][0]
    assert (first["run"], first["control"], first["baseline"]) == ("sft", "blank", None)
    assert list(first["overall"]["rules"]) == looking["rules"]
    assert looking["rules"][0] == "answer_overlap"
    even = first["by"]["content_type"]["a"]  # questions 0 2 4: SFT has 0 and 2 right, and 0 without the image
    assert even["count"] == 3
    assert even["rules"]["answer_overlap"]["image_reliance"]["mean"] == pytest.approx(1 / 3)
    assert even["changed"]["mean"] == pytest.approx(1 / 3)


def test_tables_are_written_as_csv_latex_and_markdown(output):
    with (output / "looking.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (row,) = [
        row for row in rows
        if (row["run"], row["baseline"], row["control"], row["rule"], row["figure"], row["field"])
        == ("GRPO", "SFT", "blank", "exact_set", "image_reliance", "")
    ]  # fmt: skip
    assert float(row["mean"]) == pytest.approx(2 / 6, abs=1e-5)
    markdown = (output / "looking.md").read_text()
    assert "| SFT, blank | 0.500 [" in markdown
    assert "| GRPO - SFT, blank | +0.333 [" in markdown
    assert "| content type: a | 3 | +0.333 [" in markdown
    assert (output / "looking.tex").read_text().count(r"\begin{table}") == 2


def test_one_run_prints_its_figures_and_keeps_no_table_of_an_earlier_report(output, tmp_path, capsys):
    sft = output.parent / "sft"
    real, blank = sft / "sft_basic_results.json", sft / "sft_basic_blank_results.json"
    flags = [str(real), "--output", str(tmp_path)]
    assert evaluation_report.main([*flags, "--control", str(blank)]) == 0
    # 1 and 2 turn wrong: reliance 2/6, and a third of the answers changes
    assert "run, blank: image reliance +0.333 [" in capsys.readouterr().out
    assert (tmp_path / "looking.csv").is_file()
    assert evaluation_report.main(flags) == 0
    assert not list(tmp_path.glob("looking.*"))
    assert "looking" not in json.loads((tmp_path / "metrics.json").read_text())


@needs_chromium
def test_the_page_tells_and_shows_how_far_answers_depend_on_the_image(output, tmp_path):
    steps = """
    const cells = () => all("#looking-table tbody tr").map((row) => [...row.children].map((cell) => cell.textContent));
    outcome.hidden = one("#looking").hidden;
    outcome.lead = one("#looking-lead").textContent;
    outcome.rows = cells();
    outcome.width = [document.documentElement.scrollWidth, innerWidth];
    pick("kinds by", "content_type");
    outcome.kinds = all("#looking-plot .label").map((label) => label.textContent);
    outcome.marks = all("#looking-plot .row:last-child text").map((text) => text.textContent);
    pick("control", "shuffled");
    outcome.keys = all("#looking-plot .keys > span").map((key) => key.textContent);
    pick("right by rule", "substring");
    outcome.byRule = cells()[0][3];
    """
    seen = visit(output / "report.html", tmp_path, steps, size="390,844").outcome
    assert seen["errors"] == []
    assert not seen["hidden"]
    assert "SFT answers 0.500 of the questions right, and 0.167 with a blank image and 0.333 with" in seen["lead"]
    assert [row[:3] for row in seen["rows"]] == [
        ["SFT", "blank", "6"], ["SFT", "shuffled", "6"], ["GRPO", "blank", "6"], ["GRPO − SFT", "blank", "6"],
    ]  # fmt: skip
    assert seen["rows"][3][5].startswith("+0.333")
    assert seen["width"][0] <= seen["width"][1]
    assert seen["kinds"] == ["a n = 3", "b n = 3"]
    assert {"0", "1"} <= set(seen["marks"])
    assert seen["keys"] == ["SFT"]
    assert seen["byRule"].startswith("0.500")
