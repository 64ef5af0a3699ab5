"""A disk that is full while a checkpoint is written costs that checkpoint and nothing else."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors import SafetensorError
from transformers import TrainerCallback

from tests.support.grpo_runs import make_trainer

FLAGS = {"max_steps": 4, "save_steps": 2}


@contextmanager
def file_sizes_restored() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Fill(TrainerCallback):
    """Lets no file grow beyond ``size`` bytes from the end of step 4 on, as on a full disk."""

    def __init__(self, size: int) -> None:
        self.size = size

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    make_trainer(world, output, **FLAGS).train()
    return output


@pytest.mark.parametrize("full_at", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json", None])
def test_the_checkpoints_before_stay_and_the_run_resumes_when_there_is_room(world, tmp_path, whole, full_at):
    """``full_at`` is the file that does not fit; None is the first one."""
    run = tmp_path / "run"
    trainer = make_trainer(world, run, **FLAGS)
    size = 0 if full_at is None else (whole / "checkpoint-4" / full_at).stat().st_size - 1
    trainer.add_callback(Fill(size))
    with file_sizes_restored(), pytest.raises((OSError, RuntimeError, SafetensorError)):
        trainer.train()
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-2"]
    resumed = make_trainer(world, run, **FLAGS, resume_from_checkpoint=True)
    resumed.train(resume_from_checkpoint=resumed.args.resume_from_checkpoint)
    for name in ("completions.jsonl", "checkpoint-4/adapter_model.safetensors", "checkpoint-4/optimizer.pt"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
