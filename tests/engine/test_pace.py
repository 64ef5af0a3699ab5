"""Two processes that must call a divided model equally often do so, whatever each has to decode."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from swift.engine import sampling as rollout
from swift.engine.rollout.choosing import Sampling
from swift.engine.rollout.pace import Pace
from swift.engine.sampling import generate
from tests.support.builders import PAD, TORCHRUN, random_prompts, run_python, tiny_model

STOPS = tuple(range(7, 15))


def decode_in_step(folder: Path) -> None:
    """Decode other prompts in each process, in one slice in the first and in three in the second, and write down the
    forward passes."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model, passes = tiny_model(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    prompts = random_prompts(images=(1, 0, 2), lengths=(7, 4, 9), seed=rank)
    sampling = Sampling(12, STOPS, PAD, 1.0, banned_token_ids=(5, 6))
    uniforms = torch.rand(6, 12, generator=torch.Generator().manual_seed(rank))
    expected = generate(model, prompts, 2, sampling, uniforms).token_lists()
    alone = len(passes)
    rollout.free_bytes = lambda device: (1e9, 1.0)[rank]
    tokens = generate(model, prompts, 2, sampling, uniforms, synced=True).token_lists()
    result = {"same": tokens == expected, "alone": alone, "passes": len(passes) - alone}
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def test_processes_make_equally_many_passes_and_draw_their_own_tokens(tmp_path):
    completed = run_python("tests.engine.test_pace", tmp_path, launcher=TORCHRUN)
    assert completed.returncode == 0, completed.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["same"]
    assert second["same"]
    assert first["passes"] == second["passes"] > max(first["alone"], second["alone"])


@pytest.mark.parametrize("synced", [False, True])
def test_a_process_alone_keeps_its_own_pace(synced):
    pace = Pace(tiny_model(), synced=synced)
    assert pace.most(3) == 3
    pace.finish()


if __name__ == "__main__":
    decode_in_step(Path(sys.argv[1]))
