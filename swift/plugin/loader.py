"""Import of plugin files (``--external_plugins``), whose code registers rewards in ``orms``."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from swift.utils.errors import UserError


def load_external_plugins(paths: Iterable[str | Path]) -> None:
    """Import each plugin file once; what it registers in ``orms`` becomes available.

    The plugin's folder is put at the end of ``sys.path`` so that it can import files beside it.

    Raises:
        UserError: a file is missing, is not Python, or raises while it is imported.
    """
    for path in paths:
        path = Path(path).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"--external_plugins {path}: no such file; give the path of a Python file")
        if path.suffix != ".py":
            raise UserError(f"--external_plugins {path}: not a Python file; its name must end in .py")
        _import_file(path)


def _import_file(path: Path) -> None:
    # The hash keeps two plugins of the same name apart; the prefix keeps either from shadowing a real module.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f"external_plugin_{path.stem}_{digest}"
    if module_name in sys.modules:
        return
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UserError(
            f"--external_plugins {path}: {describe_error(error, path)}; mend the plugin and start again"
        ) from error


def describe_error(error: Exception, path: Path | None = None) -> str:
    """``line N: ErrorType: message`` on one line; the line is the last one in ``path``, or where the error arose."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if path is None or frame.filename == str(path)
    ]
    if not frames:
        return f"{type(error).__name__}: {message}"
    where = f"line {frames[-1].lineno}" if path else f"{frames[-1].filename} line {frames[-1].lineno}"
    return f"{where}: {type(error).__name__}: {message}"
