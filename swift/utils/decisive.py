"""Settings that decide a result, and settings that do not, for every comparison of results and runs.

A flag of the evaluation carries the answer in its field's metadata: ``{"decides": Decides.NOTHING}``. Most flags of
training are fields of transformers, which take no metadata of ours. Those that decide nothing are listed here, so that
a sweep can compare two commands without importing torch. The environment variables are in :mod:`utils.switches`.
"""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum

DECIDES = "decides"  # the key in a field's metadata


class Decides(StrEnum):
    """The influence of an evaluation flag on a result file. A field without this metadata decides the answers."""

    ANSWERS = "answers"
    CONTENT = "content"  # names files: their contents decide the answers, and digests of them are compared instead
    EXTRAS = "extras"  # adds numbers to the result file, and changes no answer
    NOTHING = "nothing"  # a place, or the way a run is carried out or watched


# Flags of training for places and for watching a run. Two flags are not among them: --logging_steps, because a sweep
# averages the logs of its runs step by step, and --save_steps, because the best checkpoint is one of those saved.
WATCHING = frozenset(
    {
        "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_total_limit", "save_on_each_node",
        "report_to", "run_name", "project", "log_completions", "log_level", "log_level_replica", "log_on_each_node",
        "logging_dir", "disable_tqdm", "skip_memory_metrics", "check_images", "dataset_num_proc", "ddp_timeout",
        "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory",
        "dataloader_prefetch_factor", "reward_timeout", "log_vision_dependency",
    }
)  # fmt: skip
# Flags of training that name files whose digest a sweep keeps and compares.
NAMES_OF_CONTENT = frozenset({"dataset"})


def fields_that_decide(kind: type, *influences: Decides) -> frozenset[str]:
    """Names of the fields of a dataclass, or of an object of one, with one of these influences."""
    return frozenset(field.name for field in fields(kind) if field.metadata.get(DECIDES, Decides.ANSWERS) in influences)
