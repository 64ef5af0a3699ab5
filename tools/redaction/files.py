"""Kinds of files in run folders and result folders, told by name, and the rule for those that can be shared in part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.redaction import documents
from tools.redaction.result_rows import completion_row, result_document
from tools.redaction.rules import SharingRule


@dataclass(frozen=True)
class FileKind:
    """A kind of file. ``holds`` are the kinds of patient data in files that are left out whole. ``rule`` makes a JSON
    document that can be shared, or with ``lines`` each line of one. Without it the file is left out."""

    name: str
    pattern: str  # of the path within the folder, or of the file's name
    holds: tuple[str, ...] = ()
    rule: SharingRule | None = None
    lines: bool = False
    is_weights: bool = False


_TEXTS, _NAMES, _IMAGES, _IDS = "texts", "names", "images", "identifiers"
ALL_DATA = (_TEXTS, _NAMES, _IMAGES, _IDS)
_KINDS = (
    FileKind("arguments", r"args\.json", rule=documents.ARGUMENTS_FILE),
    FileKind(
        "completions", r"completions\.jsonl|not_finite_step\d+_process\d+\.jsonl", rule=completion_row, lines=True
    ),
    FileKind("training log", r"trainer_state\.json", rule=documents.TRAINER_STATE_FILE),
    FileKind("profile", r"profile\.json", rule=documents.PROFILE_FILE),
    FileKind("best checkpoint", r"best\.json", rule=documents.BEST_FILE),
    FileKind("run facts", r".+_(?:results|token_prob)\.run\.json", rule=documents.RUN_FACTS),
    FileKind("results", r".+_(?:results|token_prob)\.json", rule=result_document),
    FileKind("audit", r".+_kg_metrics\.json", rule=documents.AUDIT_FILE),
    FileKind("report numbers", r"metrics\.json", rule=documents.REPORT_FILE),
    FileKind("sweep", r"sweep\.json", rule=documents.SWEEP_FILE),
    FileKind("summary", r"summary\.json", rule=documents.summary_file),
    FileKind("run of a sweep", r"run\.json", rule=documents.SWEEP_RUN_FILE),
    FileKind("weights", r".+\.safetensors", (_TEXTS,), is_weights=True),
    FileKind("pickled tensors", r".+\.(?:pt|pth|bin|pkl|pickle|ckpt|npy|npz)", ALL_DATA),
    FileKind("tokenizer", r"(?:tokenizer|vocab|merges|special_tokens|added_tokens|chat_template).*", (_TEXTS, _NAMES)),
    FileKind("configuration", r"(?:.*config|base|checksums|.*\.index)\.json", (_NAMES,)),
    FileKind("graphs", r".+_kg\.json", (_TEXTS,)),
    FileKind("facts of graphs", r".+_kg\.info\.json|.+\.manifest\.json", (_NAMES, _IDS)),
    FileKind("partial answers", r".+\.partial\.jsonl", (_TEXTS, _IDS)),
    FileKind("page", r".+\.html", ALL_DATA),
    FileKind("table", r".+\.(?:csv|tsv|tex|md|parquet)", (_TEXTS, _NAMES)),
    FileKind("log", r".+\.(?:log|txt|out|err)", (_TEXTS, _NAMES)),
    FileKind("TensorBoard events", r"events\.out\..+", (_TEXTS, _NAMES)),
    FileKind("trace", r"trace\.json\.gz", (_NAMES,)),
    FileKind("plot", r"(?:curves|sizes|steps)\.png|.+\.svg", (_TEXTS, _NAMES)),
    FileKind("image", r".+\.(?:png|jpe?g|dcm|dicom|tiff?|webp|bmp|gif)", (_IMAGES, _IDS)),
    FileKind("lock", r"\.lock", ()),
)
UNKNOWN_FILE = FileKind("unknown", "", ALL_DATA)


def kind_of(path: Path) -> FileKind:
    """The kind of a file by its path within the folder."""
    for kind in _KINDS:
        if any(re.fullmatch(kind.pattern, name, re.IGNORECASE) for name in (path.name, path.as_posix())):
            return kind
    return UNKNOWN_FILE


def known_rules() -> Iterator[SharingRule]:
    """The rules of all kinds of files."""
    return (kind.rule for kind in _KINDS if kind.rule is not None)
