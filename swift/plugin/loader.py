"""Import of plugin files (``--external_plugins``), whose code registers rewards in ``orms``."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from swift.utils.errors import UserError

OWN_PLUGIN = Path(__file__).resolve().parents[2] / "plugin.py"  # this project's rewards


def load_external_plugins(paths: Iterable[str | Path]) -> None:
    """Import each plugin file once, so that the rewards it registers in ``orms`` become available.

    The plugin's folder is appended to ``sys.path`` so that the plugin can import files beside it.

    Raises:
        UserError: a file is missing, is not a Python file, or raises while it is imported.
    """
    for path in paths:
        path = Path(path).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"--external_plugins {path}: no such file; give the path of a Python file")
        if path.suffix != ".py":
            raise UserError(f"--external_plugins {path}: not a Python file; its name must end in .py")
        _import_file(path)


def _import_file(path: Path) -> None:
    # The hash keeps plugins of the same name apart. The prefix keeps them from shadowing a real module.
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
    except Exception as error:  # a plugin's code may raise anything
        del sys.modules[module_name]
        raise UserError(
            f"--external_plugins {path}: {describe_error(error, path)}; fix the plugin and start again"
        ) from error


def describe_error(error: Exception, path: Path | None = None) -> str:
    """Describe ``error`` on one line, as ``line N: ErrorType: message``.

    With ``path``, N is the innermost line within that file. Otherwise the file of the innermost line precedes it.
    """
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if path is None or frame.filename == str(path)
    ]
    if not frames:
        return f"{type(error).__name__}: {message}"
    place = f"line {frames[-1].lineno}" if path else f"{frames[-1].filename} line {frames[-1].lineno}"
    return f"{place}: {type(error).__name__}: {message}"
