"""What the evaluation scripts share: which questions, which policy, and the result files they leave."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from swift.llm.checkpoint import resolve_checkpoint
from swift.llm.controls import shuffle_images
from swift.llm.dataset import Record, check_records, load_records, raise_problems
from swift.llm.model import load_policy
from swift.llm.policy import Policy
from swift.llm.template import IMAGE_SEPARATOR
from swift.llm.templates import template_for
from swift.trainers.inference import Answer, answer_records, greedy
from swift.utils.errors import UserError
from swift.utils.files import write_json
from swift.utils.run_info import git_state, package_versions
from utils.get_knowledge_graph import extractor_name
from utils.metrics import ACCURACY_RULES, PUBLISHED_RULE, judge, question_metrics, reference_answers

SWEEP = tuple(f"test_{group}_vqa.json" for group in ("basic", "compare", "region"))


def _flag(help: str, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass
class EvaluationArguments:
    """Which policy answers which questions, and how."""

    model_path: str = field(metadata={"help": "folder of a checkpoint, an adapter, or a run (its newest checkpoint)"})
    base_model_path: str | None = _flag("full checkpoint below an adapter folder; default: the one the adapter names")
    dataset_folder: str = _flag(
        "the sweep: annotations/eval/test_{basic,compare,region}_vqa.json in this folder", "data/MIMIC-VQA-CoT"
    )
    annotation_file: str | None = _flag("evaluate this one file instead of the sweep")
    img_root: str | None = _flag(
        "image folder; default: the images folder nearest above a file", aliases=["--image_root"]
    )
    output_dir: str = _flag("folder of the result files", "result")
    max_samples: int | None = _flag("take only the first questions of each file")
    control: Literal["none", "shuffled"] = _flag("shuffled: each question gets another patient's images", "none")
    seed: int = _flag("seed of the control's shuffling", 0)
    batch_size: int = _flag("questions decoded together", 16)
    max_new_tokens: int = _flag("most tokens of an answer", 256)
    dynamic_hd: int | None = _flag("most crops an image may take; default: the checkpoint's, else 4")
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = _flag(
        "type of the weights; auto: as saved", "auto"
    )
    use_flash_attention: bool = _flag("attend with flash-attn where it is installed", False)
    no_tqdm: bool = _flag("no progress bar", False)

    _argument_group_name = "evaluation"

    def __post_init__(self):
        for name in ("max_samples", "batch_size", "max_new_tokens", "dynamic_hd"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be 1 or more")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed} must be 0 or more")


@dataclass(frozen=True)
class QuestionFile:
    """The questions of one annotation file; under a control they already show the images it gave them."""

    path: Path
    records: list[Record]

    @property
    def name(self) -> str:
        """The dataset's name in result files."""
        return self.path.stem


def read_questions(arguments: EvaluationArguments) -> list[QuestionFile]:
    """The questions of the single file or the sweep, each checked to be whole and answerable. Raises UserError."""
    files = []
    for path in _annotation_files(arguments):
        records = load_records([path], arguments.img_root, max_samples=arguments.max_samples)
        _check_answers(records)
        check_records(records, decode=False)
        if arguments.control == "shuffled":
            records = shuffle_images(records, arguments.seed)
        files.append(QuestionFile(path, records))
    return files


def _annotation_files(arguments: EvaluationArguments) -> list[Path]:
    if arguments.annotation_file is not None:
        return [Path(arguments.annotation_file)]
    folder = Path(arguments.dataset_folder) / "annotations" / "eval"
    missing = [name for name in SWEEP if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}; put the files there, name another --dataset_folder, "
            "or evaluate one file with --annotation_file"
        )
    return [folder / name for name in SWEEP]


def _check_answers(records: Sequence[Record]) -> None:
    problems = []
    for record in records:
        try:
            reference_answers(_with_explanation(record))
        except ValueError as error:
            problems.append(f"{record.source}: {error}")
    raise_problems(problems)


class Evaluator:
    """A policy, loaded once, that answers files of questions."""

    def __init__(self, arguments: EvaluationArguments):
        self.arguments = arguments
        self.checkpoint = resolve_checkpoint(arguments.model_path)
        self.policy = _load(self.checkpoint, arguments)
        self.template = template_for(self.policy, new_tokens=arguments.max_new_tokens)

    def answer(self, questions: QuestionFile) -> list[Answer]:
        """Greedy answers, in the order of the questions. Raises UserError for a prompt that does not fit."""
        records = questions.records
        self.template.check_prompts(records)
        sampling = greedy(self.template, self.arguments.max_new_tokens)
        answers = answer_records(self.policy, self.template, records, sampling, self.arguments.batch_size)
        progress = tqdm(answers, questions.name, len(records), unit="question", disable=self.arguments.no_tqdm)
        return sorted(progress, key=lambda answer: answer.index)

    def evaluate(self, questions: QuestionFile) -> dict[str, Any]:
        """What a result file holds: how it came about, the scores, and one entry of ``results`` per question."""
        started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
        answers = self.answer(questions)
        results = [result_row(record, answer) for record, answer in zip(questions.records, answers, strict=True)]
        accuracies = {rule: sum(row["correct"][rule] for row in results) / len(results) for rule in ACCURACY_RULES}
        return {
            "dataset": questions.name,
            "annotation_file": str(questions.path),
            "checkpoint": checkpoint_name(self.checkpoint),
            "control": self.arguments.control,
            "num_samples": len(results),
            "accuracy": accuracies[PUBLISHED_RULE],
            "accuracy_rule": PUBLISHED_RULE,
            "accuracies": accuracies,
            "metrics": {name: float(values.mean()) for name, values in question_metrics(results).items()},
            "extractor": extractor_name(),
            "results": results,
            "decoding": "greedy",
            "prompt_example": self.template.encode_prompt(questions.records[0]).text,
            "image_separator": IMAGE_SEPARATOR,
            "arguments": dataclasses.asdict(self.arguments),
            "dynamic_hd": self.policy.image_processor.dynamic_hd,
            "dtype": str(self.policy.model.dtype).removeprefix("torch."),
            "attention": self.policy.model.config._attn_implementation,
            "device": str(self.policy.model.device),
            "git": git_state(),
            "versions": {"python": platform.python_version(), **package_versions()},
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 2),
        }

    def result_path(self, questions: QuestionFile) -> Path:
        """``<output_dir>/<checkpoint>_<dataset>_<processor source>_results.json``, the source being the checkpoint
        itself or the base below it; a control's name stands before ``results``."""
        own = (self.checkpoint / "tokenizer_config.json").exists()
        parts = [checkpoint_name(self.checkpoint), questions.name, "checkpoint" if own else "base"]
        if self.arguments.control != "none":
            parts.append(self.arguments.control)
        return Path(self.arguments.output_dir) / ("_".join([*parts, "results"]) + ".json")

    def write(self, questions: QuestionFile, document: dict[str, Any]) -> Path:
        """Write a result file; one of the same name is replaced."""
        return write_json(self.result_path(questions), document)


def _load(checkpoint: Path, arguments: EvaluationArguments) -> Policy:
    policy = load_policy(
        checkpoint,
        base=arguments.base_model_path,
        dtype=arguments.torch_dtype if arguments.torch_dtype == "auto" else getattr(torch, arguments.torch_dtype),
        attn_impl="flash_attn" if arguments.use_flash_attention else "auto",
        dynamic_hd=arguments.dynamic_hd,
    )
    policy.model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    return policy


def checkpoint_name(checkpoint: Path) -> str:
    """A checkpoint's name in result files; ``checkpoint-N`` of a run carries the run's name too."""
    checkpoint = checkpoint.resolve()
    in_run = checkpoint.name.startswith("checkpoint-")
    return f"{checkpoint.parent.name}-{checkpoint.name}" if in_run else checkpoint.name


def result_row(record: Record, answer: Answer) -> dict[str, Any]:
    """One entry of ``results``: every field of the question, and what became of it. ``image_paths`` are the images
    shown, under a control not those of ``image_ids``."""
    columns = _with_explanation(record)
    correct = judge(answer.text, reference_answers(columns))
    return {
        "id": columns.get("idx", answer.index),
        "question": record.messages[-1]["content"],
        **columns,
        "image_paths": [source.name for source in record.images],
        "generated_text": answer.text,
        "num_tokens": len(answer.token_ids),
        "finished": answer.finished,
        "is_correct": correct[PUBLISHED_RULE],
        "correct": correct,
    }


def _with_explanation(record: Record) -> dict[str, Any]:
    """The record's own fields; its solution goes by the name evaluation files give it."""
    columns = {name: value for name, value in record.columns.items() if name != "solution"}
    return columns | {"explanation": record.solution}
