"""Questions per second of the evaluation engine against a loop that takes one question at a time, in one run.

    python -m bench.evaluate --model output/demo/grpo [--dataset_folder data/demo] [--questions 40] [--rounds 2]
    python -m bench.evaluate --model output/demo/grpo --against FOLDER      # the engine of another checkout, in turns

The loop is the published way: for each question its images are read and tiled afresh, its prompt is prefilled, its
answer decoded alone. The engine is what evaluate.py runs. Both take turns over the same questions, the first ones of
each file of the sweep; both decode greedily and their texts are compared one by one. Images that were tiled are
counted. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from PIL import Image

from bench.against.turns import take_turns
from bench.timing import compare
from swift.engine.batch import collate_prompts
from swift.engine.sampling import generate
from swift.evaluation.answering import (
    AnswerTask,
    Batching,
    answer_batches,
    automatic_batching,
    automatic_threads,
    greedy,
    make_batches,
)
from swift.evaluation.question_files import SWEEP
from swift.llm.checkpoint.folders import resolve_checkpoint
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import Record, load_records
from swift.llm.images.cache import CACHE_BYTES
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor, ProcessedImage
from swift.llm.policy import Policy
from swift.llm.template.phi4 import Phi4Template
from swift.utils.errors import reports_user_errors


class CountingProcessor(DynamicHDImageProcessor):
    """Counts the images it tiles."""

    tiled = 0

    def __call__(self, image: Image.Image) -> ProcessedImage:
        self.tiled += 1
        return super().__call__(image)


def make_template(policy: Policy, cache_bytes: int, threads: int) -> tuple[Phi4Template, CountingProcessor]:
    """A template with a counter of its own and an empty cache."""
    like = policy.image_processor
    processor = CountingProcessor(like.crop_size, like.patch_size, like.dynamic_hd)
    image_token = policy.model.config.vision_config.image_token_id
    return Phi4Template(
        policy.tokenizer, processor, image_token, cache_bytes=cache_bytes, decoding_threads=threads
    ), processor


def one_at_a_time(policy: Policy, records: Sequence[Record], new_tokens: int) -> tuple[list[str], int]:
    """The text for each question, and the images tiled."""
    template, processor = make_template(policy, cache_bytes=0, threads=0)
    sampling = greedy(template, new_tokens)
    texts = []
    for record in records:
        prompts = collate_prompts([template.encode_prompt(record)], template.pad_token_id, policy.model.device)
        completions = generate(policy.model, prompts, 1, sampling)
        texts.append(template.decode(completions.token_lists()[0]))
    return texts, processor.tiled


def engine(
    policy: Policy, records: Sequence[Record], new_tokens: int, batching: Batching, workers: int
) -> tuple[list[str], int]:
    """The text for each question by the engine of evaluate.py, and the number of images tiled."""
    template, processor = make_template(policy, CACHE_BYTES, workers)
    batches = make_batches(template, records, range(len(records)), batching, new_tokens)
    task = AnswerTask(greedy(template, new_tokens))
    answered = chain.from_iterable(answer_batches(policy, template, records, batches, task))
    in_order = sorted(answered, key=lambda question: question.index)
    return [question.answers[0].text for question in in_order], processor.tiled


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="output/demo/grpo", help="checkpoint or run (default: output/demo/grpo)")
    parser.add_argument("--dataset_folder", type=Path, default=Path("data/demo"), help="with the sweep's files")
    parser.add_argument("--questions", type=int, default=40, help="taken from each file")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--batch_size", type=int, help="questions per batch (default: as evaluate.py chooses)")
    parser.add_argument("--num_workers", type=int, help="threads that read ahead (default: as evaluate.py chooses)")
    parser.add_argument("--rounds", type=int, default=2, help="counted rounds of each form")
    parser.add_argument("--against", type=Path, help="another checkout; compare with its engine, and nothing else")
    return parser.parse_args(argv)


def compare_engines(args: argparse.Namespace) -> None:
    """Compare the engine of this checkout with that of ``args.against``. Prints the table and the JSON line."""
    settings = {
        "model": str(Path(args.model).resolve()),
        "dataset_folder": str(args.dataset_folder.resolve()),
        "questions": args.questions,
        "max_new_tokens": args.max_new_tokens,
    }
    with tempfile.TemporaryDirectory() as folder:
        settings_of = dict.fromkeys(("old", "new"), settings)
        old, new = take_turns("answer", args.against, settings_of, args.rounds, Path(folder))
    count = new.facts[0]["questions"]
    same = len({fact["texts"] for fact in old.facts + new.facts}) == 1
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{count} questions, at most {args.max_new_tokens} new tokens; medians of {args.rounds}\n")
    print(f"{'':24}{'old':>12}{'new':>12}{'ratio':>9}")
    speedup = old.seconds / new.seconds
    print(f"{'questions per second':24}{count / old.seconds:>12.2f}{count / new.seconds:>12.2f}{speedup:>8.2f}x\n")
    print(json.dumps({"speedup": round(speedup, 3), "text_identical": same, "questions": count}))


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the JSON line."""
    args = parse_arguments(argv)
    if args.against is not None:
        compare_engines(args)
        return 0
    folder = args.dataset_folder / "annotations" / "eval"
    files = [load_records([folder / name], max_samples=args.questions) for name in SWEEP]
    records = list(chain.from_iterable(files))
    policy = load_policy(resolve_checkpoint(args.model))
    if torch.accelerator.is_available():
        policy.model.to(torch.accelerator.current_accelerator())
    batching = Batching(args.batch_size) if args.batch_size else automatic_batching(policy.model)
    threads = automatic_threads(policy.model) if args.num_workers is None else args.num_workers
    texts: dict[str, list[str]] = {}
    tiled: dict[str, int] = {}

    def loop() -> None:
        texts["loop"], tiled["loop"] = one_at_a_time(policy, records, args.max_new_tokens)

    def batched() -> None:
        texts["engine"], tiled["engine"] = engine(policy, records, args.max_new_tokens, batching, threads)

    timed = compare("questions per second", loop, batched, args.rounds)
    same = sum(text == batched_text for text, batched_text in zip(texts["loop"], texts["engine"], strict=True))
    images = {source.key for record in records for source in record.images}
    shown = sum(len(record.images) for record in records)
    print(f"torch {torch.__version__}, {policy.model.device}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{len(records)} questions, {shown} images shown, {len(images)} of them distinct; medians of {args.rounds}\n")
    print(f"{'':24}{'one at a time':>16}{'engine':>12}{'ratio':>9}")
    slow, fast = len(records) / timed.slow, len(records) / timed.fast
    print(f"{timed.name:24}{slow:>16.2f}{fast:>12.2f}{timed.speedup:>8.1f}x")
    print(f"{'images tiled':24}{tiled['loop']:>16}{tiled['engine']:>12}")
    print(f"{'equal texts':24}{'':>16}{same:>12} of {len(records)}\n")
    print(
        json.dumps(
            {
                "speedup": round(timed.speedup, 2),
                "text_identical": same == len(records),
                "questions": len(records),
                "images": len(images),
                "images_tiled": tiled["engine"],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
