"""Settings of training runs and sweeps, read from environment variables.

A field is the environment variable of the same name in capitals. Every value is text, as a command takes it, and a list
is words with blanks between them. An empty variable counts as unset. docs/sweeps.md has the table of all settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from swift.utils.errors import UserError

Settings = TypeVar("Settings")

PATH_SETTINGS = {"annotations", "dataset", "model", "ref_model", "output_dir", "eval_folder", "sweep", "logs"}


def _setting(default: str, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class RunSettings:
    """Settings of one training run, as train.sh reads them. A sweep varies some of them."""

    type: str = _setting("hard_uniform", "sampling policy of the training set")
    size: str = _setting("1000", "records in the training set")
    annotations: str = _setting("data/MIMIC-VQA-CoT/annotations", "folder of the training sets")
    dataset: str = _setting("", "training file (default: that of TYPE and SIZE in ANNOTATIONS)")
    model: str = _setting("checkpoints/restore_MIMIC_Think_phi4_ep1_lr6e-5", "policy before training")
    ref_model: str = _setting("", "reference of the KL term (default: MODEL)")
    output_dir: str = _setting("", "folder of the run (default: output/TYPE_SIZE)")
    nproc: str = _setting("1", "processes on this machine")
    resume: str = _setting("", "true, or a checkpoint: resume the run in OUTPUT_DIR")
    seed: str = _setting("42", "seed of the run")
    rewards: str = _setting("external_r1v_acc external_kg_jac", "reward functions")
    learning_rate: str = _setting("6e-5", "peak learning rate")
    beta: str = _setting("0.5", "weight of the KL term")
    epsilon: str = _setting("0.2", "clip range of the probability ratio")
    generations: str = _setting("8", "completions per prompt (G)")
    temperature: str = _setting("0.9", "sampling temperature")
    max_completion_length: str = _setting("256", "most tokens per completion")
    batch: str = _setting("", "completions per process and step (default: 8, or G if G does not divide 8)")
    accumulation: str = _setting("1", "batches per optimizer step")
    epochs: str = _setting("1", "passes over the training set")
    max_steps: str = _setting("-1", "optimizer steps; -1: as many as EPOCHS gives")
    warmup_ratio: str = _setting("0.1", "share of the steps in which the learning rate rises")
    dynamic_sample: str = _setting("true", "replace groups whose rewards are all equal")
    max_resample_times: str = _setting("4", "most rounds of such replacements per step")
    save_steps: str = _setting("1000", "steps between checkpoints")
    save_total_limit: str = _setting("2", "most checkpoints to keep")
    dtype: str = _setting("bfloat16", "type of the weights")
    attention: str = _setting("auto", "attention implementation")


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the evaluation of each run of a sweep."""

    eval_folder: str = _setting("", "data folder with the evaluation questions (default: the parent of ANNOTATIONS)")
    eval_batch: str = _setting("16", "questions per batch")
    eval_new_tokens: str = _setting("", "most tokens per answer (default: MAX_COMPLETION_LENGTH)")
    eval_samples: str = _setting("", "questions of each file (default: all)")
    dynamic_hd: str = _setting("4", "most crops per image")
    use_flash_attention: str = _setting("true", "use flash attention if the machine has it")


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a sweep: its grid, its folders, and what runs side by side."""

    sizes: str = _setting("1000 2000 5000", "sizes of the training sets")
    types: str = _setting("hard_uniform uniform", "sampling policies of the training sets")
    seeds: str = _setting("42", "seeds")
    lrs: str = _setting("", "learning rates (default: LEARNING_RATE)")
    generations: str = _setting("8", "completions per prompt (G), one or several")
    betas: str = _setting("", "weights of the KL term (default: BETA)")
    reward_sets: str = _setting("", "sets of reward functions, a comma between two sets (default: REWARDS)")
    evaluate: str = _setting("false", "true: evaluate every run and summarize the sweep")
    sweep: str = _setting("output/sweep", "folder of the sweep")
    logs: str = _setting("logs", "folder of the logs")
    gpus: str = _setting("", "GPUs to use: '0 1' is one per run, '0,1 2,3' two per run (default: as the machine shows)")
    jobs: str = _setting("", "runs side by side (default: one per entry of GPUS)")
    status_seconds: str = _setting("30", "seconds between status lines if the output is not a terminal")


def read_settings(kind: type[Settings], environment: Mapping[str, str]) -> Settings:
    """The settings of a class: the environment's values, and defaults for variables that are unset or empty."""
    given = {field.name: environment.get(field.name.upper()) for field in fields(kind)}
    return kind(**{name: _kept_from_flags(name, value) for name, value in given.items() if value})


def _kept_from_flags(name: str, value: str) -> str:
    """``value``, so that no command takes a path that begins with a hyphen for a flag."""
    return f"./{value}" if name in PATH_SETTINGS and value.startswith("-") else value


def describe_settings(kind: type) -> str:
    """One line per setting for ``--help``: variable, default and meaning."""
    lines = []
    for entry in fields(kind):
        default = f" (default: {entry.default})" if entry.default else ""
        lines.append(f"  {entry.name.upper():<22} {entry.metadata['meaning']}{default}")
    return "\n".join(lines)


def whole_number(name: str, text: str, least: int) -> int:
    """A setting as an integer. Raises UserError if it is not one, or is less than ``least``."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"{name} {text} must be a whole number, {least} or more; correct it")
    return value


def seconds_setting(name: str, text: str) -> float:
    """A setting as seconds. Raises UserError if it is not a number."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name} {text} must be a number of seconds; correct it") from None
