"""Let a policy answer the evaluation questions, and score the answers.

    python evaluate.py --model_path output/grpo                        the sweep: basic, compare and region questions
    python evaluate.py --model_path DIR --annotation_file FILE --img_root DIR        one file
    python evaluate.py --model_path DIR --control shuffled             the blind baseline: other patients' images

Decoding is greedy. Each annotation file leaves one JSON file in --output_dir; `tools.compare_results` turns several
into a table and a report. `accuracy` follows the published rule; `accuracies` has stricter ones (utils/metrics.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swift.cli.evaluation import EvaluationArguments, Evaluator, read_questions
from swift.llm.checkpoint import resolve_checkpoint
from swift.utils.cli import FlagParser
from swift.utils.errors import reports_user_errors
from utils.get_knowledge_graph import extractor_name


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read flags and questions, so that the cheap mistakes are found first; then load the policy and let it answer."""
    parser = FlagParser((EvaluationArguments,), prog="python evaluate.py", description="Answer and score questions.")
    (arguments,) = parser.parse(argv)
    resolve_checkpoint(arguments.model_path)
    files = read_questions(arguments)
    extractor_name()
    evaluator = Evaluator(arguments)
    for questions in files:
        document = evaluator.evaluate(questions)
        path = evaluator.write(questions, document)
        scores = ", ".join(f"{rule} {value:.3f}" for rule, value in document["accuracies"].items())
        print(f"{path}: {document['num_samples']} questions, accuracy by rule: {scores}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
