"""Evaluation of policies: every file of questions is answered by every checkpoint and leaves a result file."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from swift.evaluation.answering import (
    Answered,
    AnswerTask,
    Batching,
    answer_batches,
    automatic_batching,
    automatic_threads,
    drawn,
    make_batches,
)
from swift.evaluation.arguments import EvaluationArguments
from swift.evaluation.jobs import EvaluationJob, Progress, checkpoint_name, make_jobs
from swift.evaluation.partial_results import PartialWriter, partial_answers_path
from swift.evaluation.question_files import check_or_skip, given_text, read_question_files
from swift.evaluation.results import screen_lines, stored
from swift.llm.checkpoint.folders import resolve_checkpoint
from swift.llm.checkpoint.load import load_policy
from swift.llm.policy import Policy
from swift.llm.template.choose import template_for
from swift.llm.template.phi4 import IMAGE_SEPARATOR
from swift.utils.distributed import get_dist_setting, is_master
from swift.utils.errors import UserError
from swift.utils.logger import get_logger
from swift.utils.output_folders import check_output_file, check_output_folder
from swift.utils.run_info import git_state, package_versions
from utils.get_knowledge_graph import extractor_name
from utils.questions import clusters_in_words, counted

logger = get_logger()


def run_evaluation(arguments: EvaluationArguments) -> int:
    """Answer every file with every checkpoint, except for finished jobs. Mistakes that are cheap to find are reported
    before a policy is loaded. Raises UserError."""
    check_output_folder(arguments.output_dir)
    if arguments.list_results is not None:
        check_output_file(arguments.list_results, "--list_results")
    checkpoints = [resolve_checkpoint(path) for path in arguments.model_path]
    files = read_question_files(arguments)
    try:
        extractor_name()
    except ValueError as error:
        raise UserError(str(error)) from error
    jobs = make_jobs(arguments, checkpoints, files)
    waiting = []
    for job in jobs:
        if not arguments.resume:
            job.clear(arguments.part)
        elif job.finished():
            job.remove_partials()
            print(f"{job.result}: exists already, with the same settings")
            _list(job, arguments)
            continue
        waiting.append(job)
    for checkpoint in dict.fromkeys(job.checkpoint for job in waiting):
        evaluator = Evaluator(arguments, checkpoint)
        for job in waiting:
            if job.checkpoint == checkpoint:
                evaluator.run(job)
                _finish(job, arguments)
        del evaluator  # the next checkpoint needs the memory
    return 0


class Evaluator:
    """A policy, loaded once, that answers files of questions."""

    def __init__(self, arguments: EvaluationArguments, checkpoint: Path):
        self.arguments = arguments
        self.checkpoint = checkpoint
        self.policy = _load(checkpoint, arguments)
        threads = automatic_threads(self.policy.model) if arguments.num_workers is None else arguments.num_workers
        self.template = template_for(
            self.policy,
            new_tokens=arguments.max_new_tokens,
            decoding_threads=threads,
            response_prefix=arguments.response_prefix,
        )

    def run(self, job: EvaluationJob) -> None:
        """Answer this process's part of the questions and append the answers to its partial file.

        Questions with an answer are left out. Raises UserError for a prompt that does not fit and, unless skipped, for
        an unreadable image.
        """
        arguments, records, progress = self.arguments, job.questions.records, job.progress()
        done, unfit = progress.rows.keys(), self._unfit(job)
        header = self._header(job, progress)
        batching, task = Batching(**header["batching"]), self.task()
        positions = set(range(len(records))) - job.questions.skipped.keys() - unfit.keys()
        new_tokens = task.num_samples * task.sampling.max_new_tokens
        batches = make_batches(self.template, records, sorted(positions), batching, new_tokens)
        number, count = arguments.part
        own_batches = [batch for batch in batches[number - 1 :: count] if not done >= set(batch)]
        problems = [Answered(index, (), unfit[index]) for index in sorted(unfit.keys() - done)]
        if not own_batches and not problems:
            return
        answers = answer_batches(self.policy, self.template, records, own_batches, task)
        hidden = arguments.no_tqdm or not is_master() or not sys.stderr.isatty()
        with (
            closing(
                PartialWriter(partial_answers_path(job.result, arguments.part), header, self._run_facts(batching))
            ) as writer,
            tqdm(
                desc=job.questions.name, total=sum(map(len, own_batches)), unit="question", disable=hidden
            ) as progress,
        ):
            self._write(job, writer, chain([problems] if problems else [], answers), progress)

    def _write(
        self, job: EvaluationJob, writer: PartialWriter, answers: Iterable[list[Answered]], progress: tqdm
    ) -> None:
        clock, done = time.perf_counter(), 0
        try:
            for batch in answers:
                problem = next((answered.problem for answered in batch if answered.problem is not None), None)
                if problem is not None and self.arguments.on_error == "stop":
                    raise UserError(f"{problem}; or pass --on_error skip. The answers so far are kept")
                rows = [stored(answered, job.questions.digests[answered.index]) for answered in batch]
                writer.append(rows, time.perf_counter() - clock)
                clock = time.perf_counter()
                progress.update(len(batch))
                done += len(batch)
                if not self.arguments.no_tqdm and is_master() and not sys.stderr.isatty():
                    logger.info("%s: %d/%d questions", job.questions.name, done, progress.total)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the memory of {self.policy.model.device} does not hold a batch of --batch_size "
                f"{self.arguments.batch_size}; pass a smaller number. The answers so far are kept"
            ) from error

    def task(self) -> AnswerTask:
        """The request to the policy, the same for every question."""
        arguments = self.arguments
        sampling = drawn(self.template, arguments.max_new_tokens, arguments.temperature)
        given = None if arguments.given is None else partial(given_text, name=arguments.given)
        return AnswerTask(sampling, arguments.num_samples, arguments.seed, arguments.top_k_alternatives, given)

    def _unfit(self, job: EvaluationJob) -> dict[int, str]:
        """Reasons by position why a prompt cannot be made. Raises UserError for the first unless they are skipped."""
        records = job.questions.records
        positions = [index for index in range(len(records)) if index not in job.questions.skipped]
        check = partial(self.template.check_prompts, answer_of=self.task().given)
        problems = check_or_skip([records[i] for i in positions], check, self.arguments.on_error)
        return {positions[place]: problem for place, problem in problems.items()}

    def _header(self, job: EvaluationJob, progress: Progress) -> dict[str, Any]:
        """Header of a new partial file. Its batching is that of existing partial files unless ``--batch_size`` sets
        another."""
        if self.arguments.most_questions is not None:
            batching = dataclasses.asdict(Batching(self.arguments.most_questions))
        else:
            batching = progress.batching or dataclasses.asdict(automatic_batching(self.policy.model))
        if self.arguments.part[1] > 1:
            _check_batching(progress, batching)
        first = next(i for i in range(len(job.questions.records)) if i not in job.questions.skipped)
        facts = {
            "dataset": job.questions.name,
            "annotation_file": str(job.questions.path),
            "checkpoint": checkpoint_name(job.checkpoint),
            "control": self.arguments.control,
            "decoding": "greedy" if self.arguments.temperature == 0 else "sampling",
            "prompt_example": self.template.encode_prompt(job.questions.records[first]).text,
            "image_separator": IMAGE_SEPARATOR,
            "dynamic_hd": self.policy.image_processor.dynamic_hd,
        }
        if unseen := job.questions.unseen:
            facts["unseen"] = {"count": len(unseen), "records": list(unseen)}
        return {"settings": job.settings, "facts": facts, "batching": batching}

    def _run_facts(self, batching: Batching) -> dict[str, Any]:
        """Facts about this process that decide no answer, apart from rounding."""
        model = self.policy.model
        return {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "command": sys.argv,
            "arguments": dataclasses.asdict(self.arguments),
            "part": "{}/{}".format(*self.arguments.part),
            "batching": dataclasses.asdict(batching),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "device": str(model.device),
            "threads": torch.get_num_threads(),
            "git": git_state(),
            "versions": {"python": platform.python_version(), **package_versions()},
        }


def _check_batching(progress: Progress, batching: dict[str, Any]) -> None:
    """Raise UserError if another part has other batches, since some questions would then belong to no part."""
    for begun in progress.partials:
        if (other := begun.header["batching"]) != batching:
            raise UserError(
                f"{begun.path} was begun in batches of {Batching(**other)}, now {Batching(**batching)}, and parts must "
                f"share the same batches; pass --batch_size {other['questions']} to every part, resume in one process "
                "without --shard, or remove that file"
            )


def _finish(job: EvaluationJob, arguments: EvaluationArguments) -> None:
    """Write and report the job's result, unless questions wait for other parts or another part was faster."""
    progress = job.progress()
    if not progress.waiting:
        _report(job, job.write_result(progress))
        _list(job, arguments)
    elif not job.finished_elsewhere():
        if arguments.part[1] == 1:
            raise UserError(
                f"{job.result}: {progress.waiting} of the answers were removed while they were written; start again"
            )
        print(f"{job.result}: {progress.waiting} questions wait for other parts")


def _list(job: EvaluationJob, arguments: EvaluationArguments) -> None:
    if arguments.list_results is not None:
        with Path(arguments.list_results).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{job.result}\0")


def _report(job: EvaluationJob, document: dict[str, Any]) -> None:
    about = f"{counted(document['num_samples'], 'question')} about {clusters_in_words(document['results'])}"
    skipped = f", {document['num_skipped']} skipped" if document["num_skipped"] else ""
    print(f"{job.result}: {about}{skipped}; mean [95% interval]")
    print("\n".join(screen_lines(document)))


def _load(checkpoint: Path, arguments: EvaluationArguments) -> Policy:
    policy = load_policy(
        checkpoint,
        base=arguments.base_model_path,
        dtype=arguments.torch_dtype if arguments.torch_dtype == "auto" else getattr(torch, arguments.torch_dtype),
        attn_impl="flash_attn" if arguments.use_flash_attention else "auto",
        dynamic_hd=arguments.dynamic_hd,
    )
    policy.model.to(own_device())
    return policy


def own_device() -> torch.device:
    """The accelerator of this process's rank, or the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    local_rank = max(get_dist_setting()[1], 0)
    return torch.device(torch.accelerator.current_accelerator().type, local_rank % torch.accelerator.device_count())
