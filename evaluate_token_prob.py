"""The evaluation of evaluate.py, and what the policy thought of every token it wrote.

    python evaluate_token_prob.py --model_path output/grpo
    python evaluate_token_prob.py --model_path DIR --top_k_alternatives 5
    python evaluate_token_prob.py --model_path DIR --given explanation        score the reference text instead

All flags are those of evaluate.py. Each entry of `results` also has, a number a token: `token_probabilities`,
`token_logprobs` (natural logarithm), `token_entropies` (nats), `token_ranks` (1: the most likely), and with
--top_k_alternatives `token_alternatives`; the texts of `generated_tokens` joined are `generated_text`. They are of the
policy's own distribution over the whole vocabulary at temperature 1, whatever the answers were sampled at. With --given
FIELD nothing is written: the field's text and an end token are scored, and the names begin with `given_`. Files end in
token_prob.json.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swift.evaluation.arguments import TokenArguments
from swift.evaluation.run import run_evaluation
from swift.utils.errors import reports_user_errors
from swift.utils.flags import FlagParser


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    description = "Answer and score questions, token by token."
    parser = FlagParser((TokenArguments,), prog="python evaluate_token_prob.py", description=description)
    return run_evaluation(*parser.parse(argv))


if __name__ == "__main__":
    sys.exit(main())
