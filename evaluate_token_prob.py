"""The evaluation of evaluate.py, with the policy's probability of every token it wrote.

    python evaluate_token_prob.py --model_path output/grpo
    python evaluate_token_prob.py --model_path DIR --top_k_alternatives 5
    python evaluate_token_prob.py --model_path DIR --given explanation        score the reference text instead

All flags of evaluate.py are accepted too. Each entry of `results` also has lists with one entry per token:
`token_probabilities`, `token_logprobs` (natural logarithm), `token_entropies` (nats), `token_ranks` (1 is the most
likely), and with --top_k_alternatives `token_alternatives`. The texts of `generated_tokens` joined are
`generated_text`. All numbers describe the policy's own distribution over the whole vocabulary at temperature 1, even if
the answers were sampled at another temperature. With --given FIELD the policy generates nothing. The field's text and
an end token are scored instead, and the names begin with `given_`. The names of the files end in token_prob.json.
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
