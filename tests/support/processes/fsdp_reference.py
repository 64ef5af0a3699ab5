"""One process under FSDP2: a model that has just run takes the values of a snapshot. Prints the differences."""

from __future__ import annotations

import tempfile

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from swift.trainers.reference import Snapshot


def main() -> None:
    """Print how far a run under the snapshot is from the values of the snapshot, and one after it from the model's."""
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        snapshot, inputs = Snapshot.of(model), torch.randn(4, 64)
        before = model(inputs).detach()
        with torch.no_grad():
            model[1].weight.add_(1)
        moved = model(inputs).detach()
        mesh = init_device_mesh("cpu", (1,))
        for module in (model[0], model):  # the second layer belongs to the root
            fully_shard(module, mesh=mesh)
        snapshot.divide(model)
        with torch.no_grad():
            for _ in range(3):
                model(inputs)  # after a forward the root holds whole parameters
                with snapshot.written_into(model):
                    print(float((model(inputs) - before).abs().max()))
                print(float((model(inputs) - moved).abs().max()))
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
