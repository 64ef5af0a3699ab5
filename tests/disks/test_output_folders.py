"""Places that cannot be written to: a command says so in one line before it begins, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import evaluate
from swift.cli import rlhf, sft
from swift.utils.errors import UserError
from swift.utils.output_folders import check_output_file, check_output_folder
from tools import compare_results, convert_checkpoint, make_demo, reward_audit, sample_data

MODEL = ["--model", "m", "--dataset", "d.json"]
COMMANDS = {
    "rlhf": (rlhf.main, [*MODEL, "--reward_funcs", "format"], "--output_dir"),
    "sft": (sft.main, MODEL, "--output_dir"),
    "evaluate": (evaluate.main, ["--model_path", "m"], "--output_dir"),
    "sample_data": (sample_data.main, ["--sizes", "5", "--pool", "p.json"], "--root"),
    "compare_results": (compare_results.main, ["--sft", "a.json", "--grpo", "b.json"], "--output"),
    "convert_checkpoint": (convert_checkpoint.main, ["m", "--to", "native"], "target"),
    "make_demo": (make_demo.main, [], "--output"),
    "reward_audit": (reward_audit.main, ["--dataset", "d.json", "--reward_funcs", "format"], "--output"),
}
LONG = "x" * 300


@pytest.fixture
def places(tmp_path) -> dict[str, str]:
    """Places that cannot be written to, each with a word of the message as its name."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    return {
        "is a file and not a folder": str(tmp_path / "file"),
        "file is a file": str(tmp_path / "file" / "below" / "it"),
        "which does not exist": str(tmp_path / "link"),
        "gone, which does not exist": str(tmp_path / "link" / "below"),
        "remove it": str(tmp_path / "round"),
        "empty": "",
        "is": " \t",
        "a name of 300 bytes": str(tmp_path / LONG / "below"),
        "bytes": str(tmp_path / "\udcfftwo\nlines" / LONG),
        "too long": str(tmp_path) + "/name" * 1000,
        "NUL": str(tmp_path / "a\0b"),
        "No such file": "/proc/new",
        "cannot be written": "/proc/self/fd/new",
        "is a device": os.devnull,
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_to_is_one_line_before_anything_is_read(places, tmp_path, capsys, name):
    """It was a traceback, and only once the model was loaded."""
    main, words, flag = COMMANDS[name]
    before = sorted(path.name for path in tmp_path.iterdir())
    for word, place in places.items():
        assert main([*words, *([flag] if flag.startswith("-") else []), place]) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert flag in line
        assert word in line or name != "rlhf"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path):
    check_output_folder(tmp_path / "new" / "two\nlines \udcff")
    check_output_file(tmp_path / "new" / "file", "--list")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"--list .* is a folder"):
        check_output_file(tmp_path, "--list")
    with pytest.raises(UserError, match="--list has a name of 256 bytes"):
        check_output_file(tmp_path / ("ü" * 128), "--list")


def test_a_folder_without_room_for_what_is_needed_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"are free, and at least 1000000000\.00 GB are needed"):
        check_output_folder(tmp_path, needed=10**18)


def test_a_full_disk_is_found_by_a_probe(tmp_path, small_disk):
    small_disk(100)
    with pytest.raises(UserError, match=f"--output_dir cannot be written to: {tmp_path}: File too large") as error:
        check_output_folder(tmp_path / "new")
    small_disk(1 << 20)
    assert "\n" not in str(error.value)
    assert list(Path(tmp_path).iterdir()) == []
