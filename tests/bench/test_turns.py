"""Two checkouts take turns, and each works with its own modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.against import turns, worker
from bench.against.turns import HERE, take_turns
from swift.utils.errors import UserError

WORKER = f"""
import json, os, runpy, sys
ends = runpy.run_path({worker.__file__!r})["Turns"](int(sys.argv[2]), int(sys.argv[3]))
settings = json.loads(sys.argv[4])
number = 0
while ends.wait():
    number += 1
    if number == settings.get("fails_at"):
        sys.exit("no more")
    with open(settings["log"], "a") as log:
        log.write(settings["name"])
    ends.done(number=number, path=os.environ["PYTHONPATH"])
"""


@pytest.fixture
def other(tmp_path, monkeypatch) -> Path:
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(turns, "WORKER", tmp_path / "worker.py")
    (tmp_path / "other" / "swift").mkdir(parents=True)
    return tmp_path / "other"


def settings(tmp_path, **more):
    return {own: {"name": own[0], "log": str(tmp_path / "log"), **more} for own in ("old", "new")}


def test_turns_alternate_and_the_first_does_not_count(other, tmp_path):
    old, new = take_turns("any", other, settings(tmp_path), 2, tmp_path)
    assert (tmp_path / "log").read_text() == "on" * 3
    assert [fact["number"] for fact in old.facts] == [2, 3]
    assert {fact["path"] for fact in old.facts} == {str(other)}
    assert {fact["path"] for fact in new.facts} == {str(HERE)}
    assert 0 < new.seconds < 5
    assert new.peak > 1e6


def test_a_process_that_ends_early_is_reported_with_its_output(other, tmp_path):
    with pytest.raises(UserError, match=r"status 1\); its output ends with:\nno more"):
        take_turns("any", other, settings(tmp_path, fails_at=2), 2, tmp_path)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a checkout of this project"):
        take_turns("any", tmp_path, settings(tmp_path), 1, tmp_path)
