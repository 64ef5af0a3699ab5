"""Import of plugin files (``--external_plugins``), whose code registers rewards in ``orms``."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from swift.plugin.calling import signs_of_life
from swift.plugin.guards import describe_error, settings_kept
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
        kept = settings_kept(f"--external_plugins {path}", folder_only=True)
        with kept, signs_of_life(lambda: [str(path)], "--external_plugins"):
            spec.loader.exec_module(module)
    except BaseException as error:  # a plugin's code may raise anything, SystemExit included
        del sys.modules[module_name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UserError(
            f"--external_plugins {path}: {describe_error(error, path)}; fix the plugin and start again"
        ) from error
