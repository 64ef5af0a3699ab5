"""Commands that train and evaluate one run, from its settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from tools.sweeps.settings import EvaluationSettings, RunSettings, whole_number

PUBLISHED_BATCH = 8
# The same in training and evaluation.
READING_FLAGS = ("image_root", "image_fields", "columns", "allow_links", "unseen")
PUBLISHED_NAMES = {"hard_sample": "hard_uniform", "uniform_sample": "uniform"}  # of sampling policies in older data


def export_program_variables(environment: Mapping[str, str]) -> str:
    """Put variables that the started programs read themselves into this process's environment. Returns the Python
    that runs them."""
    python = environment.get("PYTHON") or sys.executable
    os.environ["PYTHON"] = python
    os.environ["FREEZE_NON_VISION_PARAMS"] = environment.get("FREEZE_NON_VISION_PARAMS") or "1"
    return python


def find_data(annotations: str, policy: str, size: str) -> str:
    """The training file of a sampling policy and size, under any of its published names. If no file exists, the name
    that it should have."""
    for folder in (policy, PUBLISHED_NAMES.get(policy, policy)):
        for name in (f"{size}.json", f"valid_sample_vqa_{size}.json"):
            if os.path.exists(path := f"{annotations}/{folder}/{name}"):
                return path
    return f"{annotations}/{policy}/{size}.json"


def training_command(run: RunSettings, python: str) -> list[str]:
    """The command that trains a run. ``run.dataset`` and ``run.output_dir`` must be set."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", run.nproc, "-m"]
    batch = run.batch or _batch_for(run.generations)
    return [
        python, "-m", *(launcher if run.nproc != "1" else []), "swift.cli.rlhf",
        "--model_kwargs", '{"device_map": null}', "--rlhf_type", "grpo", "--use_vllm", "false",
        "--save_only_model", "false", "--external_plugins", "plugin.py",
        "--model", run.model, "--ref_model", run.ref_model or run.model, "--dataset", run.dataset,
        "--output_dir", run.output_dir, "--do_train", "true",
        "--num_train_epochs", run.epochs, "--max_steps", run.max_steps,
        "--per_device_train_batch_size", batch, "--per_device_eval_batch_size", batch,
        "--gradient_accumulation_steps", run.accumulation, "--num_generations", run.generations,
        "--max_completion_length", run.max_completion_length, "--temperature", run.temperature,
        "--learning_rate", run.learning_rate, "--warmup_ratio", run.warmup_ratio,
        "--beta", run.beta, "--epsilon", run.epsilon,
        "--dynamic_sample", run.dynamic_sample, "--max_resample_times", run.max_resample_times,
        "--log_completions", "true", "--save_steps", run.save_steps, "--save_total_limit", run.save_total_limit,
        "--train_type", "dummy", "--torch_dtype", run.dtype, "--attn_impl", run.attention,
        "--gradient_checkpointing_kwargs", '{"use_reentrant": false}', "--seed", run.seed,
        *(["--resume_from_checkpoint", run.resume] if run.resume else []),
        "--reward_funcs", *run.rewards.split(),
    ]  # fmt: skip


def evaluation_command(
    run: RunSettings, evaluation: EvaluationSettings, python: str, flags: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """The command that answers the evaluation questions with a run's newest checkpoint. Of the ``flags`` of training,
    by name, those about reading records are passed on."""
    given = [(name, flags[name]) for name in READING_FLAGS if flags and name in flags]
    questions = evaluation.eval_folder or os.path.dirname(run.annotations.rstrip("/")) or "."
    return [
        python, "evaluate.py", "--model_path", run.output_dir, "--output_dir", f"{run.output_dir}/eval",
        "--dataset_folder", questions, "--batch_size", evaluation.eval_batch,
        "--max_new_tokens", evaluation.eval_new_tokens or run.max_completion_length,
        "--dynamic_hd", evaluation.dynamic_hd, "--use_flash_attention", evaluation.use_flash_attention,
        "--no_tqdm", "true",
        *(["--max_samples", evaluation.eval_samples] if evaluation.eval_samples else []),
        *(word for name, values in given for word in (f"--{name}", *values)),
    ]  # fmt: skip


def _batch_for(generations: str) -> str:
    """Completions per process: the published batch, or one group if its size does not divide that batch."""
    group = whole_number("GENERATIONS", generations, 1)
    return str(group if PUBLISHED_BATCH % group else PUBLISHED_BATCH)
