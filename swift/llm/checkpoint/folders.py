"""Finding a policy on disk: the newest checkpoint of a run, and the full checkpoint below an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from swift.llm.checkpoint.adapters import CONFIG
from swift.utils.digests import folder_digest
from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.logger import get_logger
from swift.utils.run_folder import best_checkpoint, newest_checkpoint

logger = get_logger()


@dataclass(frozen=True)
class PolicyFolder:
    """The folders of one policy, resolved, and the configuration of its full checkpoint."""

    full: Path
    config: dict[str, Any]  # config.json of ``full``, as it is there
    adapter: Path | None = None  # the adapter folder on top of ``full``, if the policy is one

    @property
    def path(self) -> Path:
        """The policy's own folder: the adapter's, else the full one."""
        return self.adapter or self.full

    @property
    def files(self) -> Path:
        """The folder whose tokenizer and preprocessor files count: the policy's own if it has them."""
        return self.path if (self.path / "tokenizer_config.json").exists() else self.full


def find_policy(path: str | Path, base: str | Path | None = None) -> PolicyFolder:
    """Resolve ``path``, the folder of a full checkpoint, of an adapter or of a run. ``base`` overrides the full
    checkpoint that an adapter names. Raises UserError if a folder or its config.json is missing or damaged."""
    path = resolve_checkpoint(path)
    adapter = path if is_adapter(path) else None
    full = path if adapter is None else base_of(path, base)
    return PolicyFolder(full, read_json(full / "config.json", "give the folder of a model"), adapter)


def resolve_checkpoint(path: str | Path) -> Path:
    """``path`` itself, or a checkpoint if it is a run: the best if the run looked for one
    (``--load_best_model_at_end``), else the newest complete one. Raises UserError if it is neither."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"model folder {path} does not exist; give the folder of a checkpoint or a run")
    if is_adapter(path) or (path / "config.json").exists():
        return path
    if (best := best_checkpoint(path)) is not None:
        _say_once(f"{path} is a run: taking its best checkpoint, {best.name}")
        return best
    newest = newest_checkpoint(path)
    if newest is None:
        raise UserError(
            f"{path} has neither config.json nor a finished checkpoint-N; give the folder of a model or a run"
        )
    _say_once(f"{path} is a run: taking its newest checkpoint, {newest.name}")
    return newest


@cache
def _say_once(message: str) -> None:
    """Log ``message``, unless this process has said it: model, reference and lock are resolved one by one."""
    logger.info(message)


def is_adapter(path: Path) -> bool:
    """True if ``path`` is an adapter folder."""
    return (path / CONFIG).exists()


def base_of(path: Path, override: str | Path | None) -> Path:
    """The full folder below the adapter folder ``path``: ``override``, or the folder that the adapter names. Raises
    UserError if it is not there."""
    if override:
        return resolve_checkpoint(override)
    base = read_json(path / CONFIG, "copy the folder again").get("base_model_name_or_path")
    if not base or not (Path(base) / "config.json").exists():
        raise UserError(f"{path / CONFIG}: its base model, {base}, is not there; name its folder as the base")
    return Path(base)


def weight_digests(checkpoint: Path, base: str | Path | None) -> list[str]:
    """Digests of the folder ``checkpoint`` and, for an adapter, of the full folder below it (see :func:`base_of`)."""
    if not is_adapter(checkpoint):
        return [folder_digest(checkpoint)]
    return [folder_digest(folder) for folder in (checkpoint, base_of(checkpoint, base))]
