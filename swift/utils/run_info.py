"""args.json: the arguments and the environment of a run, so that its numbers can be traced."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from swift.utils.files import write_json

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "pillow", "deepspeed", "flash-attn")


def write_run_info(folder: str | Path, arguments: dict[str, Any], **facts: Any) -> Path:
    """Write args.json into ``folder``: arguments, command line, git commit, versions and ``facts``."""
    return write_json(
        Path(folder) / "args.json",
        {
            "arguments": {name: plain(value) for name, value in arguments.items()},
            "command": sys.argv,
            "git": git_state(),
            "versions": {"python": platform.python_version(), **package_versions()},
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **{name: plain(value) for name, value in facts.items()},
        },
    )


def git_state() -> dict[str, Any] | None:
    """``{"commit", "modified"}`` of this source tree, None outside a git checkout. ``modified`` is True if
    tracked files differ from the commit."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str]:
    """Versions of the installed packages among those that a result depends on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def plain(value: Any) -> Any:
    """``value`` as a JSON value. Dataclasses and mappings become objects, and values of unknown types become texts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, bool, type(None))) else _finite(value)


def _finite(value: Any) -> Any:
    return value if isinstance(value, float) and abs(value) < float("inf") else str(value)
