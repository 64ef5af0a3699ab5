"""Ask a policy about an image, and see the facts that its answer asserts.

    python -m tools.ask output/run chest.png "Is there a pleural effusion?"
    python -m tools.ask MODEL chest.dcm                 questions are read line by line

After the first question it reads further ones about the same image, until an empty line or the end of the input.
Decoding is greedy unless --temperature is given.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ReXKG.terminal import format_graph
from swift.evaluation.answering import AnswerTask, answer_batches, drawn
from swift.evaluation.run import own_device
from swift.llm.checkpoint.folders import resolve_checkpoint
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import Record, check_records
from swift.llm.images.source import ImageSource
from swift.llm.template.choose import template_for
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from swift.utils.lines import lines_without_controls
from utils.answers import think_text
from utils.get_knowledge_graph import extract_knowledge_graph


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.ask", description="Ask a policy about an image.")
    parser.add_argument("model", help="folder of a checkpoint, an adapter, or a run")
    parser.add_argument("image", type=Path, help="the image, in any format that training reads")
    parser.add_argument("question", nargs="?", help="the first question (default: read from the input)")
    parser.add_argument(
        "--more_images", type=Path, nargs="+", default=[], metavar="IMAGE", help="images after the first"
    )
    parser.add_argument("--base_model_path", help="full checkpoint below an adapter (default: the one it names)")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="most tokens of an answer (256)")
    parser.add_argument("--temperature", type=float, default=0.0, help="temperature of sampling; 0 is greedy (0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling (0)")
    parser.add_argument("--dynamic_hd", type=int, help="most crops of an image (default: the checkpoint's, else 4)")
    arguments = parser.parse_args(argv)
    if arguments.max_new_tokens < 1 or arguments.temperature < 0 or arguments.seed < 0:
        raise UserError("--max_new_tokens must be 1 or more, --temperature and --seed 0 or more")
    return arguments


def read_questions(first: str | None) -> Iterator[str]:
    """The first question, then one per line of the input, until an empty line or its end."""
    if first:
        yield first
    while True:
        if sys.stdin.isatty():
            print("question (empty to end): ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Load the policy once, then answer question after question."""
    arguments = parse_arguments(argv)
    images = tuple(ImageSource.from_path(path) for path in (arguments.image, *arguments.more_images))
    check_records([Record(images, (), None, {}, "the command line")])
    policy = load_policy(
        resolve_checkpoint(arguments.model), base=arguments.base_model_path, dynamic_hd=arguments.dynamic_hd
    )
    policy.model.to(own_device())
    template = template_for(policy, new_tokens=arguments.max_new_tokens)
    sampling = drawn(template, arguments.max_new_tokens, arguments.temperature)
    for number, question in enumerate(read_questions(arguments.question)):
        record = Record(images, ({"role": "user", "content": question},), None, {}, f"question {number}")
        task = AnswerTask(sampling, seed=arguments.seed + number)
        (answered,) = next(answer_batches(policy, template, [record], [[0]], task))
        if answered.problem is not None:
            raise UserError(answered.problem)
        print_answer(answered.answers[0].text)
    return 0


def print_answer(text: str) -> None:
    """Print an answer and the facts that its reasoning asserts."""
    (graph,) = extract_knowledge_graph([think_text(text)])
    width, color = shutil.get_terminal_size().columns, sys.stdout.isatty()
    print(f"{lines_without_controls(text)}\n\n{format_graph(graph, width, color)}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
