"""Rules for the JSON files of run folders and result folders: what of each may be shared.

Numbers, settings that are numbers or fixed words, and names of rewards pass. Results have rules of their own in
`tools.redaction.result_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ReXKG.graph import ENTITY_TYPES
from swift.trainers.profile.step_profile import STEP_STAGES
from tools.redaction.names import Pseudonyms
from tools.redaction.rules import (
    DROP,
    IDENTIFIER,
    Notes,
    SharingRule,
    each,
    identifiers,
    keyed,
    made_of,
    matching,
    number,
    number_text,
    numbers,
    pseudonym,
    record,
    words,
)
from tools.samples.policies import POLICIES
from tools.sweeps.runs import flags_of
from utils.metrics import RULES
from utils.questions import patient_of

_NAME = IDENTIFIER.pattern
_LOG_NAMES = (
    "step|epoch|loss|grad_norm|learning_rate|reward|reward_std|kl|entropy|completion_length|completion_length_min|"
    "completion_length_max|truncated|zero_spread_groups|dropped_groups|flat_groups|dpo_groups|dpo_loss|dpo_accuracy|"
    "vision_dependency|clip_ratio|runtime|samples_per_second|steps_per_second|total_flos"
)
log_name = matching(rf"(?:eval_|train_)?(?:{_LOG_NAMES}|(?:rewards|signs|seconds|clip_ratio)/{_NAME}(?:/std)?)")
_METRICS = (
    "accuracy", "length", "format", "hallucination", "omission", "hallucination_with_report", "confidence",
    "token_logprob", "given_length", "given_logprob", "given_token_logprob", "given_top1", *RULES,
    *(f"{what}_{score}" for what in ("entity", "relation", "kg") for score in ("precision", "recall", "f1", "jaccard")),
)  # fmt: skip
metric_name = matching(rf"{'|'.join(_METRICS)}|(?:pass@[0-9]{{1,4}}|majority_vote)(?:_exact_set)?", *_METRICS)
digest = pseudonym("digest")
kind_of_question = pseudonym(
    "kind", "verify", "choose", "query", "presence", "anatomy", "attribute", "abnormality", "size", "plane", "gender"
)
dataset_name = pseudonym("dataset", "test_basic_vqa", "test_compare_vqa", "test_region_vqa")
run_name = pseudonym("run", "run", "sft", "grpo", "blind")
INTERVAL = record(mean=number, lo=number, hi=number)
METRIC_INTERVALS = keyed(metric_name, INTERVAL)
RULE_VALUES = keyed(metric_name, number)
EXTRACTOR = matching(r"(?:lexicon|neural)-[0-9a-f]{8}")
CONTROL = words("none", "blank", "shuffled")
GIT = record(commit=matching("[0-9a-f]{40}"), modified=number)
VERSIONS = record(
    **dict.fromkeys(
        ("python", "torch", "transformers", "peft", "accelerate", "numpy", "pillow", "deepspeed", "flash_attn"),
        matching(r"[0-9]{1,4}(?:\.[0-9a-z]{1,6}){1,4}(?:\+(?:cpu|cu[0-9]{2,3}))?"),
    )
)
TYPE = words("auto", "bfloat16", "float16", "float32")
# Flags of training and evaluation whose values are numbers, true or false.
_NUMERIC = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_train_epochs",
    "max_steps", "learning_rate", "warmup_steps", "warmup_ratio", "weight_decay", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm", "logging_steps", "save_steps", "eval_steps", "save_total_limit", "seed",
    "data_seed", "num_generations", "num_generations_eval", "max_completion_length", "temperature", "top_p", "top_k",
    "beta", "epsilon", "epsilon_high", "delta", "num_iterations", "steps_per_generation", "dynamic_sample",
    "max_resample_times", "min_group_std", "overlong_filter", "lora_rank", "lora_alpha", "lora_dropout", "max_length",
    "dynamic_hd", "max_pixels", "split_dataset_ratio", "bf16", "fp16", "gradient_checkpointing", "reward_weights",
    "vision_weights", "vision_top_share", "top_entropy_quantile", "kl_in_reward", "sync_ref_model", "dpo_beta",
    "ref_model_sync_steps", "ref_model_mixup_alpha", "repetition_penalty", "profile_steps", "mini_batch_size",
    "questions_per_row", "reward_timeout", "soft_max_length", "soft_cache_length", "num_samples", "max_new_tokens",
    "batch_size", "max_samples", "top_k_alternatives", "use_flash_attention", "use_cpu", "dataset_shuffle",
)  # fmt: skip
_WORDS = {
    "loss_type": words("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo"),
    "advantage_estimator": words("grpo", "rloo", "reinforce_plus_plus"),
    "importance_sampling_level": words("token", "sequence"),
    "scale_rewards": words("true", "false", "group", "batch", "none", "gdpo"),
    "flat_groups": words("keep", "drop", "dpo"),
    "train_type": words("dummy", "lora", "full"),
    "torch_dtype": TYPE,
    "attn_impl": words("auto", "flash_attn", "flash_attention_2", "flex_attention", "sdpa", "eager"),
    "rlhf_type": words("grpo"),
    "vision_mask": words("gray", "noise"),
    "gray_window": words("percentiles", "range"),
    "lr_scheduler_type": words("cosine", "linear", "constant", "constant_with_warmup"),
    "optim": words("adamw_torch", "adamw_torch_fused", "adafactor", "sgd"),
    "control": CONTROL,
    "reward_funcs": identifiers,
}
_SETTINGS: dict[str, SharingRule] = {**dict.fromkeys(_NUMERIC, numbers), **_WORDS}
_TRUTH = ("true", "false", "auto")


@made_of(*_SETTINGS.values())
def command(value: Any, name: str, notes: Notes) -> Any:
    """A command line, of which flags with numbers, fixed words or names of rewards are kept."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return notes.withhold(name, value)
    kept: list[str] = []
    for flag, given in flags_of(value).items():
        passed = _flag_values(flag, list(given), notes.names)
        kept += [] if passed is DROP else [f"--{flag}", *passed]
    notes.withhold(name, [word for word in value if word not in kept])
    return kept


def _flag_values(flag: str, given: list[str], names: Pseudonyms) -> Any:
    if flag not in _SETTINGS or _SETTINGS[flag] is identifiers:
        return identifiers(given, flag, Notes(names)) if flag in _SETTINGS else DROP
    rule = number_text if flag in _NUMERIC else _SETTINGS[flag]
    passed = [word if word in _TRUTH else rule(word, flag, Notes(names)) for word in given]
    return DROP if DROP in passed else passed


def patient(value: Any, name: str, notes: Notes) -> Any:
    """A pseudonym of the patient that ``subject_id`` names, None for nobody."""
    patient_name = patient_of({"subject_id": value})
    notes.withhold(name, patient_name)
    return None if patient_name is None else notes.names.of("patient", patient_name)


def emptied(value: Any, name: str, notes: Notes) -> str:
    """An empty text in place of a text that readers of the file expect."""
    notes.withhold(name, value)
    return ""


ARGUMENTS_FILE = record(
    arguments=record(**_SETTINGS),
    command=command,
    git=GIT,
    versions=VERSIONS,
    skipped=record(count=number),
    skipped_during_run=record(count=number),
    unseen=record(count=number),
    extractor=EXTRACTOR,
    seed=number,
    world_size=number,
    prompts_per_step=number,
    steps_per_rollout=number,
    environment=record(KG_TEXT=words("think", "whole"), REXKG_EXTRACTOR=words("lexicon", "neural", "auto")),
)
TRAINER_STATE_FILE = record(
    **dict.fromkeys(
        ("best_global_step", "best_metric", "epoch", "eval_steps", "global_step", "logging_steps", "max_steps",
         "num_input_tokens_seen", "num_train_epochs", "save_steps", "total_flos", "train_batch_size"),
        number,
    ),
    log_history=each(keyed(log_name, number)),
)  # fmt: skip
PROFILE_FILE = record(
    first_step=number,
    steps=number,
    device=words("cpu"),
    bandwidth_gb_per_second=number,
    compute_tflops=number,
    stages=each(
        record(
            stage=words(*STEP_STAGES),
            **dict.fromkeys(("seconds", "share", "tokens_per_second", "compute_share", "bandwidth_share"), number),
        )
    ),
)
BEST_FILE = record(checkpoint=matching(r"checkpoint-\d{1,9}"), value=number)
KIND_COUNTS = keyed(
    kind_of_question, record(questions=number, count=number, metrics=METRIC_INTERVALS, scores=METRIC_INTERVALS)
)
CALIBRATION = record(
    right_by=metric_name,
    ece=INTERVAL,
    brier=INTERVAL,
    auroc=INTERVAL,
    bins=each(record(low=number, high=number, count=number, confidence=number, accuracy=number)),
)
# The facts of a result file, beside its results.
RESULT_FACTS = record(
    dataset=dataset_name,
    checkpoint=pseudonym("checkpoint"),
    control=CONTROL,
    decoding=words("greedy", "sampling"),
    dynamic_hd=number,
    settings=record(
        format=number,
        tokens=number,
        weights=digest,
        questions=digest,
        control=CONTROL,
        torch_dtype=TYPE,
        gray_window=words("percentiles", "range"),
        **dict.fromkeys(
            ("seed", "num_samples", "temperature", "max_new_tokens", "dynamic_hd", "use_flash_attention", "max_pixels",
             "top_k_alternatives"),
            number,
        ),
    ),
    images=digest,
    num_samples=number,
    num_skipped=number,
    accuracy=number,
    accuracy_rule=metric_name,
    accuracies=RULE_VALUES,
    metrics=METRIC_INTERVALS,
    by_type=record(**dict.fromkeys(("question_type", "semantic_type", "content_type"), KIND_COUNTS)),
    calibration=CALIBRATION,
    extractor=EXTRACTOR,
)  # fmt: skip
_BATCHING = record(questions=number, tokens=number)
RUN_FACTS = record(
    runs=each(
        record(
            git=GIT,
            versions=VERSIONS,
            arguments=record(**_SETTINGS),
            command=command,
            batching=_BATCHING,
            dtype=TYPE,
            attention=words("sdpa", "eager", "flash_attention_2", "flex_attention"),
            device=words("cpu", "cuda"),
            threads=number,
            questions=number,
            seconds=number,
        )
    )
)
_FREQUENT = each(record(type=words(*ENTITY_TYPES), count=number, of=number, denied=number))
_SCORES = keyed(metric_name, record(per_question=INTERVAL, pooled=INTERVAL))
AUDIT_FILE = record(
    checkpoint=pseudonym("checkpoint"),
    control=CONTROL,
    extractor=EXTRACTOR,
    kg_text=words("think", "whole"),
    git=GIT,
    questions=number,
    patients=number,
    with_report=number,
    level=number,
    resamples=number,
    scores=_SCORES,
    breakdown=keyed(
        words("dataset", "semantic_type", "content_type", "question_type", "is_correct"),
        keyed(kind_of_question, record(questions=number, scores=_SCORES)),
    ),
    hallucinated=_FREQUENT,
    omitted=_FREQUENT,
)
_MCNEMAR = keyed(metric_name, record(gained=number, lost=number, p_value=number))
REPORT_FILE = record(
    questions=number,
    patients=number,
    level=number,
    resamples=number,
    extractor=EXTRACTOR,
    baseline=run_name,
    runs=keyed(run_name, record(metrics=METRIC_INTERVALS, files=each(RESULT_FACTS))),
    comparisons=each(record(run=run_name, baseline=run_name, difference=METRIC_INTERVALS, mcnemar=_MCNEMAR)),
)
_SWEEP_SETTINGS: dict[str, SharingRule] = {
    "policy": pseudonym("policy", *POLICIES),
    "rewards": identifiers,
    **dict.fromkeys(("size", "learning_rate", "generations", "beta", "seed"), number_text),
}
SWEEP_SUMMARY_FILE = record(
    questions=number,
    rows=each(
        record(
            **_SWEEP_SETTINGS,
            seeds=each(number_text),
            metrics=METRIC_INTERVALS,
            deviation_over_seeds=RULE_VALUES,
            difference_to_baseline=METRIC_INTERVALS,
        )
    ),
)
_ENTRY = {**_SWEEP_SETTINGS, "tag": pseudonym("folder"), "folder": pseudonym("folder")}
SWEEP_FILE = record(
    runs=keyed(
        pseudonym("folder"),
        record(**_ENTRY, status=words("planned", "running", "finished", "failed", "interrupted"), reason=emptied),
    )
)


@made_of(SWEEP_SUMMARY_FILE, METRIC_INTERVALS, run_name)
def summary_file(value: Any, name: str, notes: Notes) -> Any:
    """The summary.json of a sweep, or of a comparison of runs."""
    if not isinstance(value, Mapping) or "rows" in value:
        return SWEEP_SUMMARY_FILE(value, name, notes)
    own = {"seconds": number, "extractor": EXTRACTOR, "difference": METRIC_INTERVALS}
    facts = record(**own)({key: entry for key, entry in value.items() if key in own}, name, notes)
    return (
        keyed(run_name, METRIC_INTERVALS)({key: entry for key, entry in value.items() if key not in own}, name, notes)
        | facts
    )


@made_of(*_SETTINGS.values())
def evaluation_flags(value: Any, name: str, notes: Notes) -> Any:
    """The flags of an evaluation by name, each with its words."""
    if not isinstance(value, Mapping) or not all(isinstance(given, list) for given in value.values()):
        return notes.withhold(name, value)
    passed = {flag: _flag_values(flag, given, notes.names) for flag, given in value.items()}
    for flag, given in value.items():
        if passed[flag] is DROP:
            notes.withhold(name, given)
    return {flag: given for flag, given in passed.items() if given is not DROP}


def file_names(value: Any, name: str, notes: Notes) -> Any:
    """Names of files as the copy has them."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        return notes.withhold(name, value)
    return [notes.names.file(entry) for entry in value]


SWEEP_RUN_FILE = record(
    **_ENTRY,
    data_sha256=digest,
    evaluation=record(
        flags=evaluation_flags,
        replaced_by=evaluation_flags,
        checkpoint=matching(r"checkpoint-\d{1,9}"),
        files=file_names,
    ),
)
