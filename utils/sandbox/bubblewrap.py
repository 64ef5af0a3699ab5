"""A command that starts Python in a sandbox made by bubblewrap (Debian's package ``bubblewrap``).

The sandbox has namespaces of its own for processes, network, IPC and mounts, and a user without any rights. Its file
system holds the interpreter, its standard library and the shared libraries of both, all read-only, and an empty working
folder in memory. There is no /proc, /sys, /home or /tmp, and of /etc only the index of shared libraries. It dies with
the process that started it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from utils.sandbox.system_calls import call_filter

NOBODY = 65534
FILTER = "{filter}"
# Bubblewrap cannot limit the number of files in its folders in memory, so `mount` makes the working folder, and a mount
# namespace hides it from the machine. The folder /sys is everywhere, and nothing that follows reads it.
_FOLDER = "/sys"
_FOLDER_LIMITS = "size=16m,nr_inodes=256,mode=0777"
_PREPARE = f'mount -t tmpfs -o nosuid,nodev,{_FOLDER_LIMITS} work {_FOLDER} && exec "$@"'
_PACKAGES = {"bwrap": "bubblewrap", "unshare": "util-linux", "mount": "util-linux", "ldd": "libc-bin"}  # of Debian
_RIGHTS = (6, 7, 21)  # CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN
_DEVICES = ("null", "zero", "random", "urandom")  # of /dev
_LIBRARY = re.compile(r"(?:=>\s+|^\s+)(/\S+) \(0x", re.MULTILINE)  # a line of ldd
_NOT_OFFERED = ("_tkinter", "nis")  # windows and directory services; they alone need dozens of libraries


@functools.cache
def sandboxed_python() -> tuple[str, ...]:
    """The words that start Python in the sandbox; flags of Python follow. The filter of `filter_text` is read from the
    file descriptor whose number takes the place of the word `FILTER`.

    Raises:
        ValueError: a program that makes the sandbox is not installed.
    """
    for program, package in _PACKAGES.items():
        if shutil.which(program) is None:
            raise ValueError(f"the program {program} is not installed (Debian, Ubuntu: apt install {package})")
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    asked = subprocess.run([python, "-ISc", "import sys; print(*sys.path, sep='\\n')"], capture_output=True, text=True)
    folders = [Path(line) for line in asked.stdout.splitlines() if Path(line).is_dir()]
    first = [shutil.which("unshare"), "--mount", *([] if _can_become_nobody() else ["--user", "--map-root-user"])]
    first += [shutil.which("sh"), "-c", _PREPARE, "sh", shutil.which("bwrap")]
    return (*first, *_namespaces(), *_files(python, folders), "--seccomp", FILTER, "--", python, "-I")


def filter_text() -> bytes:
    """The filter of system calls for this machine. Raises ValueError if there is none.

    It allows threads if their number is limited. The kernel does not limit those of root.
    """
    return call_filter(os.uname().machine, threads=os.geteuid() != 0 or _can_become_nobody())


@functools.cache
def _can_become_nobody() -> bool:
    """True for root that may also mount and change its user. In many containers root may not."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    rights = int(re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return os.geteuid() == 0 and all(rights >> number & 1 for number in _RIGHTS)


def _namespaces() -> list[str]:
    words = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --hostname sandbox"
    words += " --die-with-parent --new-session --clearenv --cap-drop ALL"
    if _can_become_nobody():
        # The kernel does not limit the threads of root, whatever root is called in a user namespace. So no such
        # namespace is made, and the program becomes the user nobody before it runs.
        words += " --cap-add CAP_SETUID --cap-add CAP_SETGID"
    else:
        words += f" --unshare-user --disable-userns --uid {NOBODY} --gid {NOBODY}"
    return words.split()


def _files(python: str, folders: list[Path]) -> Iterator[str]:
    """Flags that make the file system of the sandbox."""
    folders = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    modules = [path for folder in folders for path in folder.rglob("lib-dynload/*.so")]
    offered = [path for path in modules if not path.name.startswith(_NOT_OFFERED)]
    listed = subprocess.run(["ldd", python, *offered], capture_output=True, text=True).stdout
    libraries = sorted({os.path.normpath(path) for path in _LIBRARY.findall(listed)})
    files = [python, *libraries, "/etc/ld.so.cache"]
    places = [*map(str, folders), *files]
    devices = [f"/dev/{name}" for name in _DEVICES]
    for parent in dict.fromkeys(os.path.dirname(place) for place in [*places, *devices]):
        yield from ("--dir", parent)  # else bubblewrap may make it for root alone
    for place in places:
        yield from ("--ro-bind-try", os.path.realpath(place), place)
    for folder in folders:
        for packages in ("site-packages", "dist-packages"):
            if (folder / packages).is_dir():
                yield from ("--tmpfs", str(folder / packages), "--remount-ro", str(folder / packages))
    for device in devices:
        yield from ("--dev-bind", device, device)
    yield from ("--bind", _FOLDER, "/work", "--chdir", "/work", "--remount-ro", "/")
