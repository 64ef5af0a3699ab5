"""Lines of completions.jsonl that are not rows do not keep a run from being resumed, and no row is lost."""

from __future__ import annotations

import logging

import pytest

from swift.trainers.rlhf_trainer import completions_log
from swift.trainers.rlhf_trainer.completions_log import CompletionsLog
from swift.utils.json_lines import json_line

ROWS = [json_line({"step": step, "completion": "ÄÖ"}) for step in (1, 2, 3)]
DAMAGED = [
    b"5\n", b"[]\n", b"null\n", b"\n", b"{}\n", b"{\n", b'{"step": "1"}\n', b'{"step": 1e999}\n', b'{"step": true}\n',
    b'{"step": -1}\n', b'{"step": 1.0}\n', b"\x00\xff\xfe\n", "Ä".encode()[:1] + b"\n", ROWS[0][:-5] + b"\n",
    b"[" * 100_000 + b"\n", b'{"step": ' + b"9" * 5000 + b"}\n",
]  # fmt: skip


@pytest.fixture
def log(tmp_path):
    return CompletionsLog(tmp_path / "completions.jsonl")


@pytest.fixture
def warnings(caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    logging.getLogger("chex").removeHandler(caplog.handler)


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_damaged_line_is_moved_aside_and_named(log, warnings, line, place):
    log.path.write_bytes(b"".join([*ROWS[:place], line, *ROWS[place:]]))
    log.truncate(2)
    assert log.path.read_bytes() == b"".join(ROWS[:2])
    assert log.path.with_name("completions.jsonl.damaged").read_bytes() == line
    assert warnings() == [f"{log.path}: not rows, and moved to completions.jsonl.damaged: lines {place + 1}"]


def test_a_line_that_is_too_long_to_be_a_row_is_moved_in_pieces(log, warnings, monkeypatch):
    monkeypatch.setattr(completions_log, "LONGEST_ROW", 64)
    for end in (b"\n", b""):
        log.path.with_name("completions.jsonl.damaged").unlink(missing_ok=True)
        long = b"x" * 150 + end
        log.path.write_bytes(ROWS[0] + long + (ROWS[1] if end else b""))
        log.truncate(2)
        assert log.path.read_bytes() == ROWS[0] + (ROWS[1] if end else b"")
        assert log.path.with_name("completions.jsonl.damaged").read_bytes() == long
        assert warnings()[-1].endswith("lines 2")


def test_a_whole_row_that_has_lost_its_newline_stays(log, warnings):
    log.path.write_bytes(b"".join(ROWS[:2])[:-1])
    log.truncate(2)
    assert log.path.read_bytes() == b"".join(ROWS[:2])
    assert not warnings()


def test_damaged_lines_of_two_resumes_are_all_kept(log, warnings):
    for line in DAMAGED[:2]:
        log.path.write_bytes(line + ROWS[0])
        log.truncate(1)
    assert log.path.with_name("completions.jsonl.damaged").read_bytes() == b"5\n[]\n"


def test_a_new_run_in_a_folder_begins_with_an_empty_file(log, warnings):
    log.path.write_bytes(ROWS[0] + b"5\n")
    log.truncate(0)
    assert log.path.read_bytes() == b""
    assert not warnings()
