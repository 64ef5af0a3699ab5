"""The sandbox of external_code_reward: attacks fail, honest programs run, and without a sandbox it is refused."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import time

import psutil
import pytest

import plugin
from swift.cli.rlhf import main as rlhf
from swift.plugin.rewards import build_rewards
from swift.utils.errors import UserError
from tests.support.builders import ROOT, rlhf_command
from tests.support.hostile.programs import ATTACKS, ROOT_ONLY, USER
from utils.run_code import run_python, sandbox_fault
from utils.sandbox.bubblewrap import sandboxed_python
from utils.sandbox.system_calls import CLONE, MACHINES, REFUSED_CALLS, call_filter

needs_sandbox = pytest.mark.skipif(bool(sandbox_fault()), reason=f"no sandbox: {sandbox_fault()}")
SECRET = b"a secret of the trainer"


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Facts of the machine that attacks reach for."""
    folder = tmp_path_factory.mktemp("outside")
    folder.joinpath("secret").write_bytes(SECRET)
    memory = bytearray(SECRET)
    place = (ctypes.c_char * len(memory)).from_buffer(memory)
    shared = f"chex-{os.getpid()}"
    _, column = MACHINES[os.uname().machine]
    numbers = {name: REFUSED_CALLS[name][column] for name in ("add_key", "bpf", "syslog")} | {"clone": CLONE[column]}
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        open(folder / "secret", "rb") as opened,
        open(f"/dev/shm/{shared}", "w") as in_memory,
    ):
        os.set_inheritable(opened.fileno(), True)
        abstract.bind("\0" + shared)
        abstract.listen()
        yield numbers | {
            "secret": SECRET.decode(), "secret_file": folder / "secret", "folder": folder, "pid": os.getpid(),
            "port": server.getsockname()[1], "shared": shared, "host": os.uname().nodename,
            "packages": sysconfig.get_path("purelib"), "length": len(SECRET),
            "address": ctypes.addressof(place),
        }  # fmt: skip
        os.unlink(in_memory.name)


def within(attack, facts, *, confined: bool, seconds: int = 1) -> str | None:
    return run_python(attack.written(facts), seconds=seconds, confined=confined)


@needs_sandbox
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.tries for attack in ATTACKS])
def test_an_attack_fails_in_the_sandbox(attack, facts):
    assert "took" not in (within(attack, facts, confined=True) or "")
    assert sorted(path.name for path in facts["folder"].iterdir()) == ["secret"]


SUCCEEDING = (USER, ROOT_ONLY) if os.geteuid() == 0 else (USER,)
REAL = [attack for attack in ATTACKS if attack.without in SUCCEEDING]


@pytest.mark.parametrize("attack", REAL, ids=[attack.tries for attack in REAL])
def test_an_attack_succeeds_without_the_sandbox(attack, facts):
    """Otherwise the row before would prove nothing."""
    assert within(attack, facts, confined=False, seconds=5) == "took\n"
    facts["folder"].joinpath("new").unlink(missing_ok=True)


def test_there_are_attacks_of_each_kind():
    assert len(ATTACKS) >= 25
    assert len({attack.program for attack in ATTACKS}) == len(ATTACKS)


HONEST = {
    "a sum": ("print(sum(map(int, input().split())))", "1 2 3", "6\n"),
    "the standard library": (
        "import bisect, collections, decimal, functools, heapq, itertools, json, math, random, re, sys, typing\n"
        "print(json.dumps(collections.Counter(re.findall('a', sys.stdin.read()))), math.comb(5, 2))",
        "banana",
        '{"a": 3} 10\n',
    ),
    "deep recursion in a thread": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**27)\n"
        "def depth(n): return n and 1 + depth(n - 1)\n"
        "thread = threading.Thread(target=lambda: print(depth(50_000)))\nthread.start(); thread.join()",
        "",
        "50000\n",
    ),
    "files of its own": (
        "import os, tempfile\nopen('a', 'w').write('x')\nwith tempfile.TemporaryDirectory(): print(open('a').read())",
        "",
        "x\n",
    ),
    "an event loop": ("import asyncio\nasync def f(): return 7\nprint(asyncio.run(f()))", "", "7\n"),
    "every line of stdin": ("import sys\nfor line in open(0): sys.stdout.write(line)", "ä\n" * 30_000, "ä\n" * 30_000),
    "exit": ("print(1)\nexit()", "", "1\n"),
    "a main": ("def main():\n    print(1)\nif __name__ == '__main__': main()", "", "1\n"),
    "no output file": ("import os\nprint('x', file=open(os.devnull, 'w'))", "", ""),
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize(("program", "stdin", "printed"), HONEST.values(), ids=HONEST)
def test_an_honest_program_runs_in_the_sandbox(program, stdin, printed):
    assert run_python(program, stdin) == printed


@needs_sandbox
def test_rewards_go_on_after_attacks(monkeypatch, facts):
    monkeypatch.setenv("CHEX_RUN_CODE", "1")
    reward = plugin.CodeRewardORM()
    info = {"language": "python", "test_cases": [{"input": "2", "output": "4"}]}
    honest = "print(2 * int(input()))"
    programs = [honest, *(attack.written(facts) for attack in ATTACKS if "ever" not in attack.tries), honest]
    scores = reward([f"```python\n{text}\n```" for text in programs], verification_info=[info] * len(programs))
    assert scores == [1.0, *[0.0] * (len(programs) - 2), 1.0]


TRAINER = """
import sys
from utils.run_code import run_python
print("ready", flush=True)
run_python("import time\\nwhile True: time.sleep(0.1)", seconds=60)
"""


@needs_sandbox
def test_a_program_dies_with_the_trainer():
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER], cwd=ROOT, stdout=subprocess.PIPE)
    assert trainer.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 10
    children = []
    while not any("python" in child.name() for child in children):
        assert time.monotonic() < deadline
        children = psutil.Process(trainer.pid).children(recursive=True)
    trainer.kill()
    trainer.communicate()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


@pytest.fixture
def fresh():
    """Forgets what was found out about the sandbox, before and after."""
    sandbox_fault.cache_clear()
    sandboxed_python.cache_clear()
    yield
    sandbox_fault.cache_clear()
    sandboxed_python.cache_clear()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, r"the program bwrap is not installed \(Debian, Ubuntu: apt install bubblewrap\)"),
        (
            "echo 'bwrap: No permissions to create new namespace' >&2; exit 1",
            r"it cannot start here: bwrap: No perm\w+",
        ),
        ("exit 0", "it cannot start here: no answer"),
    ],
    ids=["missing", "forbidden", "broken"],
)
def test_without_a_sandbox_code_is_refused_in_one_line(tmp_path, monkeypatch, fresh, script, reason):
    for name in ("unshare", "mount", "ldd", "sh", "bash"):
        (tmp_path / name).symlink_to(shutil.which(name))
    if script is not None:
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CHEX_RUN_CODE", "1")
    with pytest.raises(UserError, match=f"external_code_reward.*{reason}.*CHEX_RUN_CODE=unsafe") as caught:
        build_rewards(["external_code_reward"])
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("CHEX_RUN_CODE", "unsafe")
    ((_, reward),) = build_rewards(["external_code_reward"])
    info = {"language": "python", "test_cases": [{"input": "", "output": "1"}]}
    assert reward(["```python\nprint(1)\n```"], verification_info=[info]) == [1.0]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_reaches_an_answer_for_every_call(machine):
    """A small machine of the kernel's kind reads the filter, since the tests run on one of the two machines only."""
    names = {"read": {"x86_64": 0, "aarch64": 63}[machine], "io_uring_setup": 425, "x32 fork": 0x40000000 + 57}
    column = MACHINES[machine][1]
    refused = [pair[column] for pair in REFUSED_CALLS.values() if pair[column] is not None]
    assert {answer(machine, number) for number in refused} == {0x00050001}
    assert answer(machine, names["read"]) == 0x7FFF0000
    assert answer(machine, names["io_uring_setup"]) == answer(machine, names["x32 fork"]) == 0x00050026
    assert answer(machine, CLONE[column], 0x003D0F00) == 0x7FFF0000  # the flags of a thread
    assert answer(machine, CLONE[column], 0x003D0F00, threads=False) == 0x00050001
    assert answer(machine, CLONE[column], 0x01200011) == 0x00050001  # the flags of fork
    assert answer(machine, names["read"], architecture=0x40000003) == 0x80000000  # 32-bit calls


def answer(machine: str, number: int, flags: int = 0, architecture: int | None = None, threads: bool = True) -> int:
    """The answer of the filter to a call."""
    data = {0: number, 4: architecture or MACHINES[machine][0], 16: flags}
    program = list(struct.iter_unpack("HBBI", call_filter(machine, threads=threads)))
    place = value = 0
    while True:
        operation, if_true, if_false, constant = program[place]
        place += 1
        if operation == 0x20:
            value = data[constant]
        elif operation == 0x06:
            return constant
        else:
            holds = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[operation]
            place += if_true if holds else if_false


@needs_sandbox
def test_training_goes_on_while_its_completions_attack(world, tmp_path, monkeypatch, facts):
    """Every completion begins with the same program, which kills the trainer before it prints the right answer."""
    monkeypatch.setenv("CHEX_RUN_CODE", "1")
    program = f"import os\nfor pid in (os.getppid(), {os.getpid()}):\n    os.kill(pid, 9)\nprint(1)"
    rows = json.loads((world / "data" / "train.json").read_text())
    info = {"language": "python", "test_cases": [{"input": "", "output": "1"}]}
    (tmp_path / "code.json").write_text(json.dumps([row | {"verification_info": info} for row in rows]))
    flags = {
        "dataset": tmp_path / "code.json",
        "image_root": world / "data" / "images",
        "reward_funcs": ["external_code_reward", "vowels"],
        "response_prefix": f"<think>a</think><answer>```python\n{program}\n```",
        "max_steps": 1,
    }
    assert rlhf(rlhf_command(world, tmp_path / "run", **flags)) == 0
    steps = json.loads((tmp_path / "run" / "checkpoint-1" / "trainer_state.json").read_text())["log_history"]
    assert steps[0]["rewards/external_code_reward"] == 0.0
