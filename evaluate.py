"""Let policies answer the evaluation questions, and score the answers.

    python evaluate.py --model_path output/grpo                        the sweep: basic, compare and region questions
    python evaluate.py --model_path DIR --annotation_file FILE --img_root DIR        one file
    python evaluate.py --model_path A B C --control blank              three checkpoints, evenly grey images
    python evaluate.py --model_path DIR --num_samples 8 --temperature 0.7            pass@k and the majority vote
    torchrun --nproc_per_node 4 evaluate.py --model_path DIR           a part of the questions on each GPU
    python evaluate.py --model_path DIR --shard 2/4                    one of four parts, on any machine with the folder

Decoding is greedy unless there is a temperature. Each annotation file leaves one JSON file in --output_dir, and a
.run.json beside it about the processes that wrote it. `accuracy` follows the published rule; `accuracies` has stricter
ones (utils/metrics.py). Killed, it goes on where it was when started again: answers are kept in a .partial.jsonl.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swift.evaluation.arguments import EvaluationArguments
from swift.evaluation.run import run_evaluation
from swift.utils.errors import reports_user_errors
from swift.utils.flags import FlagParser


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = FlagParser((EvaluationArguments,), prog="python evaluate.py", description="Answer and score questions.")
    return run_evaluation(*parser.parse(argv))


if __name__ == "__main__":
    sys.exit(main())
