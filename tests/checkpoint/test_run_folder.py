"""Folders of runs: the newest finished checkpoint, and folders that hold no policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from swift.llm.checkpoint.folders import resolve_checkpoint
from swift.utils.errors import UserError
from swift.utils.run_folder import finished_step, newest_checkpoint


def make_checkpoint(run: Path, name: str, state: str | None = '{"global_step": 1}') -> Path:
    folder = run / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_the_newest_checkpoint_is_the_one_with_the_highest_number(tmp_path):
    """Not the last in the alphabet, and not a folder that only looks like one."""
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-11-copy", "old-checkpoint-99"):
        make_checkpoint(tmp_path, name)
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize("state", [None, "", '{"global_step": 3, "log', "{}"])
def test_a_checkpoint_that_was_not_written_to_the_end_is_passed_over(tmp_path, state):
    make_checkpoint(tmp_path, "checkpoint-2")
    newest = make_checkpoint(tmp_path, "checkpoint-3", state)
    assert finished_step(newest) is None
    assert newest_checkpoint(tmp_path).name == "checkpoint-2"


def test_without_a_finished_checkpoint_there_is_none(tmp_path):
    make_checkpoint(tmp_path, "checkpoint-3", None)
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_model_folder_stands_for_itself_and_a_run_for_its_newest_checkpoint(tmp_path):
    newest = make_checkpoint(tmp_path, "checkpoint-4")
    assert resolve_checkpoint(newest) == newest
    assert resolve_checkpoint(tmp_path) == newest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "gone does not exist; give the folder"),
        ("file", "file does not exist; give the folder"),
        ("empty", "empty has neither config.json nor a finished checkpoint-N; give the folder"),
        ("unfinished", "unfinished has neither config.json nor a finished checkpoint-N"),
    ],
)
def test_a_folder_that_holds_no_policy_is_refused(tmp_path, name, words):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    make_checkpoint(tmp_path / "unfinished", "checkpoint-3", "")
    with pytest.raises(UserError, match=words):
        resolve_checkpoint(tmp_path / name)
