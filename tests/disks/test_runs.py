"""A run whose disk fails ends in one line, and what was complete stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import TrainerCallback

from swift.cli import sft
from swift.cli.common import check_room
from swift.trainers.policy_trainer import PolicyTrainer
from swift.utils.errors import UserError
from tests.support.sft_runs import make_trainer, sft_command


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_one_line(world, tmp_path, small_disk, capsys):
    small_disk(60_000)
    assert sft.main(sft_command(world, tmp_path / "run")) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'run'}: File too large; ")


class Remove(TrainerCallback):
    """Removes the run folder after a step, and makes an empty one in its place if asked."""

    def __init__(self, put_back: bool) -> None:
        self.put_back = put_back

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            shutil.rmtree(args.output_dir)
            if self.put_back:
                Path(args.output_dir).mkdir()


@pytest.mark.parametrize("put_back", [False, True])
def test_a_run_folder_removed_during_the_run_stops_it_and_is_not_made_anew(
    world, tmp_path, capsys, monkeypatch, put_back
):
    """A new folder was once made with the second half of the run, and the status was 0."""
    construct = PolicyTrainer.__init__

    def with_remover(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        self.add_callback(Remove(put_back))

    monkeypatch.setattr(PolicyTrainer, "__init__", with_remover)
    assert sft.main(sft_command(world, tmp_path / "run", max_steps=4, save_steps=2)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'run'}: removed or replaced while the run wrote to it; ")
    assert [*tmp_path.glob("run/*")] == []


def test_a_disk_without_room_for_one_checkpoint_is_refused_and_for_all_is_warned_of(
    world, tmp_path, caplog, monkeypatch
):
    trainer = make_trainer(world, tmp_path / "run", save_total_limit=3)
    size = sum(parameter.nbytes for parameter in trainer.model.parameters())
    free = shutil.disk_usage(tmp_path)
    all_kept = (3 + 1) * 3 * size  # three and a new one, each with moments twice the size of the weights
    for room in (size - 1, size, all_kept - 1, all_kept):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: free._replace(free=room))
        caplog.clear()
        if room < size:
            with pytest.raises(UserError, match=r"MB are free, and at least .* MB are needed"):
                check_room(trainer)
        else:
            check_room(trainer)
            assert ("lower --save_total_limit" in caplog.text) == (room < all_kept)
