"""Pseudonyms, and the names of files and folders within a copy."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from pathlib import Path

# Names of files and folders that stay in a copy. Others become pseudonyms.
FIXED_NAMES = frozenset(
    {
        "args.json", "completions.jsonl", "trainer_state.json", "profile.json", "best.json", "metrics.json",
        "sweep.json", "summary.json", "run.json", "model.safetensors", "adapter_model.safetensors",
    }
)  # fmt: skip
PSEUDONYM_KINDS = frozenset(
    {
        "answer", "checkpoint", "dataset", "digest", "file", "folder", "group", "image", "kind", "patient", "policy",
        "question", "run", "study", "text",
    }
)  # fmt: skip
_FIXED_FORMS = re.compile(r"not_finite_step\d{1,9}_process\d{1,9}\.jsonl")
FIXED_FOLDERS = frozenset({"eval", "kg", "report", "comparison"})
CHECKPOINT = re.compile(r"checkpoint-\d{1,9}")
_ENDING = re.compile(
    r"(?:_(?:blank|shuffled|sampled))*_(?:results|token_prob)(?:\.run)?\.json|_kg_metrics\.json|\.safetensors"
)


def split_ending(name: str) -> tuple[str, str]:
    """The part of a file's name that people choose, and the ending that this program adds."""
    ending = next((match[0] for match in _ENDING.finditer(name) if match.end() == len(name)), "")
    return name.removesuffix(ending), ending


class Pseudonyms:
    """Names in place of names. Equal names of a kind have equal pseudonyms, which nobody can compute without the key.
    The key is drawn anew for every copy and is never written."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, kind: str, *names: object) -> str:
        """The pseudonym of ``names`` taken together, such as "patient-0f3a..."."""
        if kind not in PSEUDONYM_KINDS:
            raise KeyError(kind)
        text = json.dumps([kind, *map(str, names)])
        return f"{kind}-{hmac.new(self._key, text.encode('utf-8', 'replace'), hashlib.sha256).hexdigest()[:16]}"

    def path(self, path: Path) -> Path:
        """The path of a file within the copy. A folder has the same name as in sweep.json."""
        folders = [self.folder(part) for part in path.parts[:-1]]
        return Path(*folders, self.file(path.name))

    def folder(self, name: str) -> str:
        """The name of a folder within the copy."""
        return name if name in FIXED_FOLDERS or CHECKPOINT.fullmatch(name) else self.of("folder", name)

    def file(self, name: str) -> str:
        """The name of a file within the copy."""
        if name in FIXED_NAMES or _FIXED_FORMS.fullmatch(name):
            return name
        own, ending = split_ending(name)
        return self.of("file", own) + ending
