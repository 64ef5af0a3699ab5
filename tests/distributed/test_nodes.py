"""A run over two nodes, which are network namespaces of this machine, and the death of one of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builders import ROOT, rlhf_command

PATIENCE = 60  # seconds after which a run that lost a process must have ended


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Two namespaces with a cable between them; their names are also those of their interfaces."""
    names = [f"cx{os.getpid() % 10**6}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces need root and iproute2: {error}")
    try:
        first, second = names
        ip("link", "add", first, "netns", first, "type", "veth", "peer", "name", second, "netns", second)
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", name)
            for interface in ("lo", name):
                ip("-n", name, "link", "set", interface, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def start(nodes: list[str], rank: int, log: Path, *command: object) -> subprocess.Popen[bytes]:
    """Start the launcher of one process on node ``rank``."""
    rendezvous = ("--master_addr", "10.77.0.1", "--master_port", "29511")
    launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(rank))
    settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": nodes[rank]}
    with log.open("wb") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", nodes[rank], sys.executable, *launcher, *rendezvous, *map(str, command)],
            cwd=ROOT,
            env=os.environ | settings | {"FREEZE_NON_VISION_PARAMS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def workers(node: str) -> list[int]:
    """Process numbers of the trainings on a node, launchers not included."""
    listed = subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True).stdout.split()
    commands = {number: Path(f"/proc/{number}/cmdline").read_text() for number in listed}
    return [int(number) for number, words in commands.items() if "swift.cli.rlhf" in words and "torch" not in words]


def test_two_nodes_make_one_run(world, nodes, tmp_path):
    command = ("-m", "swift.cli.rlhf", *rlhf_command(world, tmp_path / "run", max_steps=3))
    runs = [start(nodes, rank, tmp_path / f"log{rank}", *command) for rank in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0], (tmp_path / "log0").read_text()
    assert json.loads((tmp_path / "run" / "args.json").read_text())["world_size"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert [sum(row["step"] == step for row in rows) for step in (1, 2, 3)] == [16, 16, 16]


def test_a_killed_process_ends_the_run_of_the_other_node_with_one_line(world, nodes, tmp_path):
    flags = {"max_steps": 5000, "save_steps": 5000}
    command = ("-m", "swift.cli.rlhf", *rlhf_command(world, tmp_path / "run", **flags))
    runs = [start(nodes, rank, tmp_path / f"log{rank}", *command) for rank in range(2)]
    try:
        rows = tmp_path / "run" / "completions.jsonl"
        deadline = time.monotonic() + 120
        while not (rows.exists() and rows.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.2)
        for number in workers(nodes[1]):
            os.kill(number, signal.SIGKILL)
        assert runs[0].wait(timeout=PATIENCE) != 0
    finally:
        for run in runs:
            run.terminate()
            run.wait(timeout=PATIENCE)
    lines = [line for line in (tmp_path / "log0").read_text().splitlines() if line.startswith("error:")]
    (line,) = lines
    assert "another process of the run died, hangs or cannot be reached" in line
    assert "--resume_from_checkpoint true" in line
