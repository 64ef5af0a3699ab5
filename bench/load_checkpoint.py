"""Memory and time of loading a sharded checkpoint. Each way of loading runs in a process of its own (Linux).

    python -m bench.load_checkpoint [--gigabytes 2] [--folder DIR]

A synthetic Phi-4-multimodal of that size in bfloat16, with Phi-4's vocabulary and a vision adapter, is written in the
remote-code layout, converted to the native one, and loaded. `peak_ratio` is the peak of resident memory while loading
the remote-code layout, less the memory held before, over the size of the checkpoint. In `ratios`, `native` is the same
for the native layout, and `from_pretrained` for transformers' own loading of that folder (without its adapter). The
last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from accelerate import init_empty_weights
from safetensors.torch import save_file

from swift.llm.checkpoint.adapters import HEAD_WEIGHT, add_vision_adapter
from swift.llm.checkpoint.convert import plan_conversion, write_plan
from swift.llm.checkpoint.folders import find_policy
from swift.llm.checkpoint.load import load_policy
from swift.llm.checkpoint.remote_config import remote_config, remote_lora
from swift.llm.checkpoint.remote_names import remote_name
from swift.utils.files import write_json
from tools.demo_world.policy import policy_config, train_tokenizer

VOCABULARY, WIDTH, RANK = 200_064, 1024, 64
SHARD_BYTES = 500_000_000
WAYS = ("remote", "native", "from_pretrained")


def write_checkpoint(folder: Path, nbytes: float, vocabulary: int = VOCABULARY) -> int:
    """Write a remote-code checkpoint of about ``nbytes`` bytes, by its number of layers. Returns its exact size."""
    tokenizer = train_tokenizer(["No pleural effusion."])
    config = policy_config(tokenizer)
    sizes = {"vocab_size": vocabulary, "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 8}
    config.update(sizes | {"num_key_value_heads": 2, "dtype": "bfloat16"})
    layer = 2 * WIDTH * (WIDTH * 11.5 + 18.5 * RANK)  # 1.5 + 1 + 6 + 3 widths of weights, and their adapter
    config.num_hidden_layers = max(1, round((nbytes - 2 * vocabulary * WIDTH) / layer))
    with init_empty_weights():
        model = transformers.Phi4MultimodalForCausalLM(config)
        add_vision_adapter(model, RANK, 2 * RANK)
    modules = {name.removesuffix(".base_layer") for name, _ in model.named_modules() if name.endswith(".base_layer")}
    noise = torch.empty(2**22, dtype=torch.bfloat16).uniform_(-0.02, 0.02)
    part, places, total = {}, {}, 0
    for name, shell in model.state_dict().items():
        if name != HEAD_WEIGHT:
            repeated = noise.repeat(-(-shell.numel() // noise.numel()))
            part[remote_name(name)] = repeated[: shell.numel()].clone().view(shell.shape)
        if name == HEAD_WEIGHT or sum(value.nbytes for value in part.values()) > SHARD_BYTES:
            file = f"model-{len(set(places.values())) + 1:05d}.safetensors"
            save_file(part, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(part, file)
            total += sum(value.nbytes for value in part.values())
            part = {}
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    adapters = {"vision": remote_lora(RANK, 2 * RANK, 0.0, modules)}
    write_json(folder / "config.json", remote_config(config.to_dict(), adapters))
    tokenizer.save_pretrained(folder)
    return total


def load(way: str, folder: Path) -> dict[str, float]:
    """Load in this process. Returns seconds, and resident bytes at the peak and afterwards, less those before."""
    if way == "from_pretrained":
        transformers.logging.disable_progress_bar()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    started = time.perf_counter()
    if way == "from_pretrained":
        model = transformers.Phi4MultimodalForCausalLM.from_pretrained(folder, dtype="auto")
    else:
        model = load_policy(folder).model
    for parameter in model.parameters():  # transformers leaves weights in the mapped file until their first use
        parameter.amax()
    seconds = time.perf_counter() - started
    assert model.dtype == torch.bfloat16
    return {"peak": _resident("VmHWM") - before, "after": _resident("VmRSS") - before, "seconds": seconds}


def measure(way: str, folder: Path) -> dict[str, float]:
    """:func:`load` in a child process."""
    command = [sys.executable, "-m", "bench.load_checkpoint", "--load", way, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory and time of loading a sharded checkpoint.")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="folder to write in (default: a temporary folder)")
    parser.add_argument("--load", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.load:
        print(json.dumps(load(arguments.load, arguments.folder)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
        remote, native = Path(root, "remote"), Path(root, "native")
        remote.mkdir()
        nbytes = write_checkpoint(remote, arguments.gigabytes * 1e9)
        write_plan(plan_conversion(find_policy(remote), "native", shard_bytes=SHARD_BYTES), native)
        rows = {way: measure(way, remote if way == "remote" else native) for way in WAYS}
    for way, row in rows.items():
        print(f"{way:16} peak {row['peak'] / nbytes:.3f} of {nbytes / 1e9:.2f} GB, {row['seconds']:.1f} s")
    ratios = {way: round(row["peak"] / nbytes, 3) for way, row in rows.items()}
    print(
        json.dumps(
            {
                "peak_ratio": ratios["remote"],
                "ratios": ratios,
                "seconds": {way: round(row["seconds"], 2) for way, row in rows.items()},
                "bytes": nbytes,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "machine": platform.machine(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
