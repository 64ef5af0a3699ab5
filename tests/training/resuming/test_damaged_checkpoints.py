"""A run resumes from the newest checkpoint that is intact, says so, and refuses if none is."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from swift.cli.common import clear_run
from swift.cli.rlhf import main
from swift.llm.resume import resume_folder, set_later_aside
from swift.utils.errors import UserError
from swift.utils.run_folder import WRITING, newest_checkpoint
from tests.support.builders import rlhf_command

WEIGHTS, STATES = "adapter_model.safetensors", ("optimizer.pt", "scheduler.pt", "rng_state.pth")


class Payload:
    """Runs a command if it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\x00garbage\xff" * 100),
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Payload())),
    "a list": lambda path: torch.save([1], path),
    "another state": lambda path: torch.save({"state": 3, "python": (1,), "numpy": 2, "cpu": 3}, path),
}


@pytest.fixture(scope="module")
def command(world):
    return lambda output, **flags: rlhf_command(world, output, **{"max_steps": 4, "save_steps": 2} | flags)


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory) -> Path:
    """A run of four steps with checkpoint-2 and checkpoint-4."""
    output = tmp_path_factory.mktemp("finished") / "run"
    assert main(command(output)) == 0
    return output


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def warnings(caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    logging.getLogger("chex").removeHandler(caplog.handler)


def resumed(run: Path, resume: str = "true") -> str | None:
    folder = resume_folder(str(run), resume, overwrite=False)
    return folder and Path(folder).name


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "no checksums"])
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_of_training_sends_the_run_back(run, warnings, name, damage, checksums):
    if not checksums:
        for checkpoint in run.glob("checkpoint-*"):
            (checkpoint / "checksums.json").unlink()
    DAMAGES[damage](run / "checkpoint-4" / name)
    assert resumed(run) == "checkpoint-2"
    first = warnings()[0]
    assert first.startswith(f"{run / 'checkpoint-2'} is resumed, because later ones are damaged: ")
    assert name.removesuffix(".pth") in first
    assert "\n" not in first
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", [*STATES, WEIGHTS, "trainer_state.json", "adapter_config.json", "checksums.json"])
def test_one_changed_byte_sends_the_run_back(run, warnings, name):
    flip(run / "checkpoint-4" / name)
    assert resumed(run) == "checkpoint-2"
    assert len(warnings()) == 1


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])  # half of scheduler.pt is padding
def test_one_changed_byte_of_a_state_is_noticed_without_checksums(run, name):
    (run / "checkpoint-4" / "checksums.json").unlink()
    flip(run / "checkpoint-4" / name)
    assert resumed(run) == "checkpoint-2"


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "missing", "a folder"])
def test_damaged_weights_are_noticed_without_checksums(run, damage):
    (run / "checkpoint-4" / "checksums.json").unlink()
    DAMAGES[damage](run / "checkpoint-4" / WEIGHTS)
    assert resumed(run) == "checkpoint-2"


@pytest.mark.parametrize("checksums", [True, False], ids=["checksums", "no checksums"])
@pytest.mark.parametrize(
    "state",
    ["[]", "null", "5", '"x"', "{}", '{"global_step": true}', '{"global_step": 4}', '{"global_step": 4, "max', "[[[[",
     '{"global_step": 3, "max_steps": 4, "log_history": []}', '{"global_step": 4, "max_steps": 4, "log_history": [1]}',
     '{"global_step": 4, "max_steps": 4, "log_history": [], "unknown": 1}'],
)  # fmt: skip
def test_a_trainer_state_of_another_shape_sends_the_run_back(run, state, checksums):
    if not checksums:
        (run / "checkpoint-4" / "checksums.json").unlink()
    (run / "checkpoint-4" / "trainer_state.json").write_text(state)
    assert resumed(run) == "checkpoint-2"


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_as_it_is(run, command, capsys):
    for checkpoint in run.glob("checkpoint-*"):
        cut(checkpoint / "optimizer.pt")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(command(run, resume_from_checkpoint=True)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: --resume_from_checkpoint true: no checkpoint in {run} can be resumed (")
    assert "--overwrite_output_dir true to remove the run and start anew" in last
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert resume_folder(str(run), "true", overwrite=True) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"optimizer.pt": 5}', '{"../x": "0"}'])
def test_damaged_checksums_send_the_run_back(run, content):
    (run / "checkpoint-4" / "checksums.json").write_text(content)
    assert resumed(run) == "checkpoint-2"


def test_a_damaged_checkpoint_that_was_named_is_refused(run):
    (run / "checkpoint-4" / "rng_state.pth").unlink()
    with pytest.raises(UserError, match=r"rng_state\.pth missing; name an older checkpoint"):
        resumed(run, str(run / "checkpoint-4"))


def test_a_checkpoint_without_its_random_state_is_not_blamed_on_save_only_model(run):
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / "checksums.json").unlink()
        (checkpoint / "rng_state.pth").unlink()
    with pytest.raises(UserError, match=r"no checkpoint .* can be resumed .*rng_state\*\.pth missing"):
        resumed(run)


def test_a_checkpoint_of_save_only_model_is_refused_by_that_name(run):
    for checkpoint in run.glob("checkpoint-*"):
        for name in (*STATES, "checksums.json"):
            (checkpoint / name).unlink()
    with pytest.raises(UserError, match=r"checkpoint-4 was saved by --save_only_model true"):
        resumed(run)


def test_a_half_written_checkpoint_is_not_complete_and_is_removed(run, command):
    """A kill after trainer_state.json and before checksums.json."""
    expected = (run / "checkpoint-4" / WEIGHTS).read_bytes()
    (run / "checkpoint-4" / "checksums.json").unlink()
    (run / "checkpoint-4" / WRITING).touch()
    (run / "checkpoint-4" / "rng_state_1.pth").touch()  # of another number of processes
    assert newest_checkpoint(run).name == "checkpoint-2"
    assert main(command(run, resume_from_checkpoint=True)) == 0
    assert (run / "checkpoint-4" / WEIGHTS).read_bytes() == expected
    assert not list(run.glob("checkpoint-4/rng_state_1.pth"))
    assert not list(run.rglob(WRITING))


def test_a_run_that_goes_back_keeps_the_damaged_checkpoint_and_ends_as_before(run, command, finished, warnings):
    flip(run / "checkpoint-4" / WEIGHTS)
    assert main(command(run, resume_from_checkpoint=True)) == 0
    assert f"{run / 'checkpoint-4'} is kept as unused-checkpoint-4; remove it if you do not need it" in warnings()
    for name in ("completions.jsonl", f"checkpoint-4/{WEIGHTS}", "checkpoint-4/optimizer.pt"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()
    assert sorted(path.name for path in run.glob("*checkpoint-*")) == [
        "checkpoint-2", "checkpoint-4", "unused-checkpoint-4"
    ]  # fmt: skip


def test_later_checkpoints_than_the_one_that_was_named_do_not_stay_in_the_way(run, warnings):
    """A further resume took checkpoint-4, whose rows had been dropped from completions.jsonl."""
    for _ in range(2):
        set_later_aside(run, 2)
        assert resumed(run) == "checkpoint-2"
        shutil.copytree(run / "unused-checkpoint-4", run / "checkpoint-4")
    assert len(warnings()) == 2
    shutil.rmtree(run / "checkpoint-2")
    clear_run(run)
    assert not list(run.glob("*checkpoint-*"))


def test_a_clock_that_was_set_back_does_not_cost_the_newest_checkpoint(run, command):
    """transformers' Trainer removes the checkpoint with the oldest time."""
    ahead = 4_000_000_000
    os.utime(run / "checkpoint-2", (ahead, ahead))
    os.utime(run / "checkpoint-4", (ahead + 9, ahead + 9))
    longer = {"max_steps": 6, "save_total_limit": 1, "resume_changed": True, "resume_from_checkpoint": True}
    assert main(command(run, **longer)) == 0
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-6"]
    steps = [json.loads(line)["step"] for line in (run / "completions.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]
