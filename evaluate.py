"""Let policies answer the evaluation questions, and score the answers.

    python evaluate.py --model_path output/grpo                        basic, compare and region questions
    python evaluate.py --model_path DIR --annotation_file FILE --img_root DIR        one file
    python evaluate.py --model_path A B C --control blank              three checkpoints, evenly gray images
    python evaluate.py --model_path DIR --num_samples 8 --temperature 0.7            pass@k and the majority vote
    torchrun --nproc_per_node 4 evaluate.py --model_path DIR           a part of the questions on each GPU
    python evaluate.py --model_path DIR --shard 2/4                    one of four parts, on any machine with the folder

Decoding is greedy unless --temperature is given. Each annotation file gives one JSON file in --output_dir, and beside
it a .run.json that describes the processes that wrote it. `accuracy` follows the published rule, and `accuracies` has
stricter rules (utils/metrics.py). Answers are kept in a .partial.jsonl file, so that a run that was killed resumes when
it is started again.
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
