"""Files of JSON lines: a torn tail is dropped wherever it is cut, other damage is a one-line error."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from swift.evaluation.partial_results import PartialWriter, read_partial, remove_partial
from swift.trainers.rlhf_trainer.completions_log import CompletionsLog
from swift.utils.errors import UserError
from swift.utils.files import read_json, try_read_json
from swift.utils.json_lines import JsonLinesFile, json_line, newest_objects
from tools.kg_audit.graph_files import NamedTexts, make_graphs, partial_graphs_path, read_graphs
from tools.reports.training_log import read_completions
from tools.sweeps.runs import step_of

pytestmark = pytest.mark.usefixtures("lexicon")

HEADER = {"settings": {"seed": 0}, "facts": {}, "batching": {"questions": 4, "tokens": None}}
ROW = {"index": 0, "question": "abc", "answers": [{"text": "Erguß, größer", "num_tokens": 3, "finished": True}]}
COMPLETION = {"step": 1, "rewards": {"a": 1.0}, "completion": "größer"}
TEXTS = NamedTexts(["1", "2", "3"], ["There is a left effusion größer.", "", "No edema."], "results.json")


def write_partial(path: Path) -> None:
    writer = PartialWriter(path, HEADER, {"host": "h"})
    writer.append([ROW, ROW | {"index": 1}], 1.5)
    writer.close()


def test_the_bytes_of_a_partial_file_are_those_of_earlier_versions(tmp_path):
    path = tmp_path / "x.partial.jsonl"
    write_partial(path)
    answers = '"question": "abc", "answers": [{"text": "Erguß, größer", "num_tokens": 3, "finished": true}]}'
    assert path.read_bytes().decode() == (
        '{"header": {"settings": {"seed": 0}, "facts": {}, "batching": {"questions": 4, "tokens": null}}}\n'
        '{"run": {"host": "h"}}\n'
        f'{{"index": 0, {answers}\n{{"index": 1, {answers}\n'
        '{"batch": {"questions": 2, "seconds": 1.5}}\n'
    )


def test_a_partial_file_cut_at_any_byte_is_read_and_resumed(tmp_path):
    """Bytes, not characters: half an ß was once a traceback in some readers."""
    path = tmp_path / "x.partial.jsonl"
    write_partial(path)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        partial = read_partial(path)
        whole = content[:cut].count(b"\n")
        assert (partial is None) == (whole == 0)
        assert len(partial.rows if partial else {}) == min(2, max(0, whole - 2))
        write_partial(path)
        assert set(read_partial(path).rows) == {0, 1}
        remove_partial(path)


def answer_line(**fields: object) -> str:
    """The line of a question whose one token has scores, some of them replaced."""
    scores = {"tokens": ["a"], "logprobs": [-0.1], "entropies": [0.2], "ranks": [1], "alternatives": [[["a", -0.1]]]}
    answer = {"text": "a", "num_tokens": 1, "finished": True, **scores, **fields}
    return json.dumps({"index": 7, "question": "abc", "answers": [answer]})


DAMAGED = [
    ("5", "not a JSON object"),
    ("null", "not a JSON object"),
    ("[]", "not a JSON object"),
    ("", "not a JSON object"),
    ("{", "not a JSON object"),
    ('{"index": 7}', "'question'"),
    ('{"index": "7", "question": "abc"}', "'index'"),
    ('{"index": true, "question": "abc"}', "'index'"),
    ('{"index": -1, "question": "abc"}', "'index'"),
    ('{"index": 1' + "0" * 400 + ', "question": "abc"}', "'index'"),
    ('{"index": 7, "question": "abc"}', "'answers'"),
    ('{"index": 7, "question": "abc", "answers": []}', "'answers'"),
    ('{"index": 7, "question": "abc", "answers": [5]}', "not an object"),
    ('{"index": 7, "question": "abc", "answers": [{"text": 5}]}', "'text'"),
    ('{"index": 7, "question": "abc", "answers": [{"text": "a", "num_tokens": 1.5}]}', "'num_tokens'"),
    ('{"index": 7, "question": "abc", "answers": [{"text": "a", "num_tokens": 1, "finished": 1}]}', "'finished'"),
    ('{"index": 7, "question": "abc", "problem": 5}', "'problem'"),
    ('{"run": 5}', "not an object"),
    ('{"run": {"seconds": NaN}}', "not an object"),
    ('{"batch": []}', "not an object"),
    ('{"batch": {"questions": 1}}', "'seconds'"),
    ('{"batch": {"questions": 1, "seconds": Infinity}}', "'seconds'"),
    ('{"batch": {"questions": 1, "seconds": 1' + "0" * 400 + "}}", "'seconds'"),
    *(
        (answer_line(**{name: [value]}), name)
        for name, value in [
            ("tokens", 5), ("logprobs", "x"), ("logprobs", float("nan")), ("logprobs", 1e9), ("entropies", None),
            ("ranks", 1.5), ("alternatives", 5), ("alternatives", [["a"]]), ("alternatives", [["a", "b"]]),
        ]
    ),
    (answer_line(tokens=["a", "b"]), "lists of one length"),
    (answer_line(ranks="x"), "lists of one length"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "problem"), DAMAGED)
@pytest.mark.parametrize("last", [False, True])
def test_a_damaged_line_of_a_partial_file_is_passed_over_with_a_warning(tmp_path, caplog, line, problem, last):
    """It was once a traceback, or a refusal of all answers."""
    path = tmp_path / "x.partial.jsonl"
    write_partial(path)
    lines = path.read_text().splitlines()
    lines.insert(len(lines) if last else 2, line)
    path.write_text("\n".join(lines) + "\n")
    assert set(read_partial(path).rows) == {0, 1}
    (warning,) = caplog.messages
    assert f"{path}: line {6 if last else 3} is damaged (" in warning
    assert problem in warning
    assert "answered again" in warning


@pytest.mark.parametrize(
    "header",
    [
        "5",
        "{}",
        '{"header": []}',
        '{"header": {}}',
        '{"header": {"settings": 5, "facts": {}, "batching": {}}}',
        '{"header": {"settings": {}, "facts": {}, "batching": {}}}',
        '{"header": {"settings": {}, "facts": {}, "batching": {"questions": 0}}}',
        '{"header": {"settings": {}, "facts": {}, "batching": {"questions": 4, "tokens": "x"}}}',
        '{"header": {"settings": {}, "facts": {}, "batching": {"questions": 4, "size": 4}}}',
        '{"header": {"settings": {}, "facts": {"seconds": NaN}, "batching": {"questions": 4}}}',
        '{"index": 7}',
    ],
)
def test_a_damaged_header_is_named(tmp_path, header):
    path = tmp_path / "x.partial.jsonl"
    for more in ("", json.dumps(ROW) + "\n"):
        path.write_text(f"{header}\n{more}")
        with pytest.raises(UserError, match=r"damaged at line 1 \(.*remove the file"):
            read_partial(path)


def test_a_batch_before_any_run_is_damage(tmp_path, caplog):
    path = tmp_path / "x.partial.jsonl"
    path.write_bytes(json_line({"header": HEADER}) + b'{"batch": {"questions": 1, "seconds": 1.0}}\n')
    assert read_partial(path).runs == []
    assert "line 2 is damaged" in caplog.text


def test_answers_of_other_settings_than_the_header_has_are_damage(tmp_path, caplog):
    path = tmp_path / "x.partial.jsonl"
    for settings, problem in (({"num_samples": 2}, "1 answers for 2 samples"), ({"tokens": True}, "is missing")):
        path.write_bytes(json_line({"header": HEADER | {"settings": settings}}) + json_line(ROW))
        assert read_partial(path).rows == {}
        assert problem in caplog.messages[-1]


def begun_graphs(path: Path, *lines: bytes) -> Path:
    partial = partial_graphs_path(path)
    partial.write_bytes(json_line(TEXTS.identity) + b"".join(lines))
    return partial


def graph_line(position: int, **fields: object) -> bytes:
    graph = {"sentences": "größer", "entities": {"größer": "concept"}, "relations": [], "doc_key": str(position)}
    return json_line(graph | fields)


def test_a_graph_file_cut_at_any_byte_is_resumed(tmp_path):
    expected = tmp_path / "expected.json"
    make_graphs(expected, TEXTS)
    path = tmp_path / "x.json"
    content = begun_graphs(path, *(json_line(graph) for graph in read_graphs(expected)[:2])).read_bytes()
    for cut in range(0, len(content), 7):
        partial_graphs_path(path).write_bytes(content[:cut])
        make_graphs(path, TEXTS, overwrite=True)
        assert path.read_bytes() == expected.read_bytes()
        path.unlink()


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ([b"5\n"], 2),
        ([graph_line(0), b"{}\n"], 3),
        ([graph_line(0), b"\xc3\n"], 3),
        ([graph_line(1)], 2),
        ([graph_line(0, entities={"a": "disorder"})], 2),
        ([graph_line(number) for number in range(4)], 5),
    ],
)
def test_graphs_before_a_damaged_line_are_kept_and_the_others_made_again(tmp_path, caplog, lines, number):
    path = tmp_path / "x.json"
    begun_graphs(path, *lines)
    make_graphs(path, TEXTS)
    assert f"line {number} is damaged" in caplog.text
    graphs = read_graphs(path)
    assert [graph["sentences"] for graph in graphs[: number - 2]] == ["größer"] * (number - 2)
    assert len(graphs) == 3


@pytest.mark.parametrize("header", [b"5\n", b'{"texts": "other"}\n', b"\xff\n"])
def test_another_header_of_a_graph_file_is_refused_or_overwritten(tmp_path, header):
    path = tmp_path / "x.json"
    partial_graphs_path(path).write_bytes(header)
    with pytest.raises(UserError, match="pass --overwrite"):
        make_graphs(path, TEXTS)
    make_graphs(path, TEXTS, overwrite=True)
    assert len(read_graphs(path)) == 3


def test_two_processes_do_not_make_the_same_graph_file(tmp_path):
    path = tmp_path / "x.json"
    partial = begun_graphs(path)
    with (
        JsonLinesFile(partial, "").writer(TEXTS.identity),
        pytest.raises(UserError, match="another process writes to"),
    ):
        make_graphs(path, TEXTS)


def test_a_writer_holds_its_file_and_knows_what_it_resumes(tmp_path):
    file = JsonLinesFile(tmp_path / "folder" / "x.jsonl", "remove it", busy="wait")
    assert list(file.lines()) == []
    assert file.header() is None
    file.remove()  # nothing to do
    with file.writer({"made": "of"}) as writer:
        assert writer.resumed == 0
        writer.append([{"n": 1}, {"n": 2}])
        for attempt in (lambda: file.writer({}), file.remove):
            with pytest.raises(UserError, match=r"another process writes to .*x\.jsonl; wait"):
                attempt()
    file.path.write_bytes(file.path.read_bytes() + b'{"n": "\xc3')
    with file.writer({"made": "of"}) as writer:
        assert writer.resumed == 2
        writer.append([{"n": "\ud800"}])
    assert file.header() == {"made": "of"}
    assert [line.value for line in file.lines()][1:] == [{"n": 1}, {"n": 2}, {"n": "\ud800"}]
    with file.writer({}, keep=3) as writer:
        assert writer.resumed == 2
    assert [line.value for line in file.lines()] == [{"made": "of"}, {"n": 1}, {"n": 2}]
    with file.writer({"made": "anew"}, keep=0) as writer:
        assert writer.resumed == 0
    assert [line.value for line in file.lines()] == [{"made": "anew"}]


def test_what_a_full_disk_took_of_a_batch_is_cut_off_and_the_next_batch_follows_whole(tmp_path, small_disk):
    """Half a line once stayed, and the next one was glued to it."""
    path = tmp_path / "x.partial.jsonl"
    writer = PartialWriter(path, HEADER, {"host": "h"})
    writer.append([ROW], 1.5)
    before = path.read_bytes()
    small_disk(len(before) + 50)
    with pytest.raises(OSError, match=re.escape(str(path))):
        writer.append([ROW | {"index": 1}], 1.5)
    assert path.read_bytes() == before
    small_disk(1 << 20)
    writer.append([ROW | {"index": 1}], 1.5)
    writer.close()
    assert set(read_partial(path).rows) == {0, 1}


@pytest.mark.parametrize("put_back", [False, True])
def test_a_file_removed_while_it_is_written_to_is_an_error(tmp_path, put_back):
    """Answers once went to a file without a name, and the command ended with status 0."""
    folder = tmp_path / "folder"
    writer = PartialWriter(folder / "x.partial.jsonl", HEADER, {})
    shutil.rmtree(folder)
    if put_back:
        PartialWriter(folder / "x.partial.jsonl", HEADER, {}).close()
    with pytest.raises(FileNotFoundError, match="removed while it was written to"):
        writer.append([ROW], 1.0)
    writer.close()


def test_a_file_removed_by_its_owner_is_opened_again(tmp_path, monkeypatch):
    """Otherwise answers would go into a file that no folder names."""
    file = JsonLinesFile(tmp_path / "x.jsonl", "")
    take = JsonLinesFile._lock
    removals = []

    def remove_first(self, handle):
        if not removals:
            removals.append(self.path.unlink())
        take(self, handle)

    monkeypatch.setattr(JsonLinesFile, "_lock", remove_first)
    with file.writer({"made": "of"}):
        pass
    assert file.header() == {"made": "of"}


def test_completions_are_cut_back_at_a_resume_and_a_torn_line_goes(tmp_path):
    log = CompletionsLog(tmp_path / "completions.jsonl")
    log.truncate(3)  # nothing to do
    log.append([COMPLETION | {"step": step} for step in (1, 2, 3)])
    expected = b"".join(log.path.read_bytes().splitlines(keepends=True)[:2])
    content = log.path.read_bytes()
    for cut in range(len(expected), len(content)):
        log.path.write_bytes(content[:cut])
        log.truncate(2)
        assert log.path.read_bytes() == expected


@pytest.mark.parametrize("line", [b"5\n", b"{}\n", b'{"step": "1"}\n', b"{\n", b"\xc3\n"])
def test_another_damaged_line_of_completions_is_named_to_readers(tmp_path, line):
    log = CompletionsLog(tmp_path / "completions.jsonl")
    log.append([COMPLETION])
    log.path.write_bytes(log.path.read_bytes() + line)
    with pytest.raises(UserError, match=r"completions\.jsonl is damaged at line 2 .*remove the line"):
        list(read_completions(log.path))


def test_progress_is_the_newest_step_whatever_else_is_there(tmp_path):
    run = SimpleNamespace(folder=tmp_path)
    assert step_of(run) == 0
    log = CompletionsLog(tmp_path / "completions.jsonl")
    log.append([{"step": 1}, {"step": 7}])
    for junk in (b"5\n", b'{"step": "x"}\n', b"[]\n", b'{"step": 8, "completion": "\xc3'):
        log.path.write_bytes(log.path.read_bytes() + junk)
        assert step_of(run) == 7
    assert list(newest_objects(tmp_path / "none")) == []


@pytest.mark.parametrize("content", [None, b"", b"{", b"5", b"[]", b"\xff", b"[" * 100_000])
def test_the_strict_reader_says_what_is_wrong_and_the_forgiving_one_gives_none(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    assert try_read_json(path) is None
    with pytest.raises(UserError, match=r"file of things .*x\.json .*; write it again") as error:
        read_json(path, "write it again", what="file of things")
    assert "\n" not in str(error.value)


def test_readers_give_the_object(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "x.json", "") == try_read_json(tmp_path / "x.json") == {"a": 1}
    with pytest.raises(UserError, match="is not a JSON list"):
        read_json(tmp_path / "x.json", "", list)
