"""Rewards and the freezing hook. This is the file to edit.

    python -m swift.cli.rlhf --external_plugins plugin.py --reward_funcs external_r1v_acc external_kg_jac ...

A reward is a class derived from ``ORM``, registered in ``orms`` under the name used on the command line. It receives
the sampled completions and, by name, every column of their dataset rows, all lists of one length, and returns one
number per completion. ms-swift 3.3.0.post1 loads this file as it is, so it uses only what that version offers.

The published rewards can be gamed (tests/rewards/test_rewards.py shows how): ``external_r1v_acc`` by naming every
answer, ``external_kg_jac`` by saying nothing. ``external_acc_strict``, ``external_kg_f1`` and ``external_format``
cannot in these ways; ``external_length`` charges for answers that come near the limit.

Environment:
    FREEZE_NON_VISION_PARAMS=1  train the vision LoRA and lm_head only
    KG_TEXT=whole               external_kg_jac reads the whole completion instead of its <think> part
    CHEX_RUN_CODE=1             let external_code_reward run the code that the model writes
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ReXKG.graph import graph_f1, graph_jaccard
from swift.plugin import ORM, orms
from swift.utils import get_device_count, get_dist_setting, get_logger, is_dist, is_mp, is_mp_ddp
from utils.answers import (
    READINGS,
    answer_span,
    answers_agree,
    has_think_answer_shape,
    parse_answers,
    think_span,
    think_text,
)
from utils.countdown import solves_countdown
from utils.freezing import describe_trainable, freeze_after_construction
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name
from utils.run_code import fenced_code, fraction_passed
from utils.strict_rewards import answers_f1, reasons_then_answers, soft_length_penalty
from utils.switches import env_switch

logger = get_logger()


class MultiModalAccuracyORM(ORM):
    """1.0 where the completion's answers agree with its solution's (``utils.answers`` has the rule), else 0.0."""

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        return [
            float(answers_agree(parse_answers(completion), parse_answers(truth)))
            for completion, truth in zip(completions, solution, strict=True)
        ]


class StrictAccuracyORM(ORM):
    """F1 of the completion's answers against its solution's, in [0, 1]: naming everything costs precision, and an
    answer that contradicts itself ("yes, no") is worth nothing."""

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        return [
            answers_f1(parse_answers(completion), parse_answers(truth))
            for completion, truth in zip(completions, solution, strict=True)
        ]


class GraphReward(ORM):
    """What rewards on knowledge graphs share: all new texts of a call are extracted at once, references are kept."""

    kept_references = 8192

    def __init__(self, extract: Callable[[list[str]], list[dict]] | None = None, choice: str = "think"):
        if extract is None:
            # Asking for the name loads the extractor now, so that no model is loaded within a call.
            logger.info(f"{type(self).__name__} reads {choice} texts with {extractor_name()}")
        self.extract = extract or extract_knowledge_graph
        self.references: dict[str, dict] = {}

    def pairs(self, predicted: list[str], expected: list[str]) -> list[tuple[dict, dict]]:
        """The graphs of each predicted text and of the text it is held against."""
        new = [text for text in dict.fromkeys([*predicted, *expected]) if text not in self.references]
        graphs = self.references | dict(zip(new, self.extract(new), strict=True))
        self._keep({text: graphs[text] for text in expected})
        return [(graphs[mine], graphs[truth]) for mine, truth in zip(predicted, expected, strict=True)]

    def _keep(self, graphs: dict[str, dict]) -> None:
        self.references.update(graphs)
        while len(self.references) > self.kept_references:
            del self.references[next(iter(self.references))]


class KnowledgeGraphORM(GraphReward):
    """Mean of entity and relation Jaccard between the graphs of the two reasonings, in [0, 1].

    The reasoning is the ``<think>`` part, or the whole text where there is none. With ``KG_TEXT=whole`` a completion
    is read whole, as in the published code.
    """

    def __init__(self, extract: Callable[[list[str]], list[dict]] | None = None):
        choice = os.environ.get("KG_TEXT") or "think"
        if choice not in READINGS:
            raise ValueError(f"KG_TEXT={choice!r} is unknown; set KG_TEXT=think (the default) or KG_TEXT=whole")
        self.read_completion = READINGS[choice]
        super().__init__(extract, choice)

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        predicted = [self.read_completion(completion) for completion in completions]
        return [graph_jaccard(*pair) for pair in self.pairs(predicted, [think_text(truth) for truth in solution])]


class KnowledgeGraphF1ORM(GraphReward):
    """Mean of entity and relation F1 between the graphs of the two reasonings, in [0, 1].

    Only a complete ``<think>`` span counts as a completion's reasoning. What neither graph has earns nothing, and where
    the reference is empty there is nothing to earn.
    """

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        predicted = [think_span(completion) or "" for completion in completions]
        pairs = self.pairs(predicted, [think_text(truth) for truth in solution])
        return [graph_f1(mine, truth) if truth["entities"] else 0.0 for mine, truth in pairs]


class FormatORM(ORM):
    """1.0 for one ``<think>`` span that says something, then one ``<answer>`` span, and nothing else; otherwise 0.0."""

    def __call__(self, completions: list[str], **columns: list) -> list[float]:
        return [float(reasons_then_answers(completion)) for completion in completions]


class SoftLengthORM(ORM):
    """0.0 for completions that leave ``soft_cache_length`` tokens unused, falling to -1.0 at ``max_completion_length``.

    Both come from the training arguments where those have them; the cache is a fifth of the length otherwise, as in
    DAPO. Tokens are those sampled (column ``completion_tokens``), or counted with the tokenizer, as under ms-swift.
    """

    def __init__(self, max_completion_length: int = 256, soft_cache_length: int | None = None, tokenizer=None):
        self.longest = max_completion_length
        self.cache = max(1, max_completion_length // 5) if soft_cache_length is None else soft_cache_length
        if not 0 < self.cache <= self.longest:
            raise ValueError(f"soft_cache_length {self.cache} must be in 1..max_completion_length ({self.longest})")
        self.tokenizer = tokenizer

    def __call__(self, completions: list[str], completion_tokens: list[int] | None = None, **columns) -> list[float]:
        if completion_tokens is None:
            if self.tokenizer is None:
                raise ValueError("external_length needs the column completion_tokens, or a tokenizer to count with")
            completion_tokens = [len(self.tokenizer.encode(text, add_special_tokens=False)) for text in completions]
        return [soft_length_penalty(tokens, self.longest, self.cache) for tokens in completion_tokens]


class MathAccuracyORM(ORM):
    """1.0 where the answer equals the solution's as mathematics (``math_verify``), else 0.0."""

    def __init__(self):
        try:
            from math_verify import parse, verify
        except ImportError as error:
            raise ImportError("external_math_acc needs math_verify; run: pip install math_verify") from error
        self.parse, self.verify = parse, verify

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        return [self._score(completion, truth) for completion, truth in zip(completions, solution, strict=True)]

    def _score(self, completion: str, truth: str) -> float:
        expected, given = (self.parse(answer_span(text) or text) for text in (truth, completion))
        return float(bool(expected) and self.verify(expected, given))


class MathFormatORM(ORM):
    """1.0 for one ``<think>`` span followed by one ``<answer>`` span and nothing else, otherwise 0.0."""

    def __call__(self, completions: list[str], **columns: list) -> list[float]:
        return [float(has_think_answer_shape(completion)) for completion in completions]


class CountdownORM(ORM):
    """1.0 where the answer is an equation over ``nums``, each used once, that reaches ``target``, else 0.0."""

    def __call__(self, completions: list[str], target: list, nums: list[list[int]], **columns: list) -> list[float]:
        return [
            float(solves_countdown(answer_span(completion) or "", numbers, goal))
            for completion, numbers, goal in zip(completions, nums, target, strict=True)
        ]


class CodeRewardORM(ORM):
    """Share of the test cases in ``verification_info`` that the last fenced block of the completion passes.

    ``verification_info`` is ``{"language", "test_cases": [{"input", "output"}]}``, as an object or as JSON text. Rows
    without it, completions without such a block and languages other than Python score 0.0. The code runs only with
    CHEX_RUN_CODE=1; a row that would need it is an error without. See ``utils.run_code`` for what is contained.
    """

    def __init__(self):
        self.may_run = env_switch("CHEX_RUN_CODE")

    def __call__(self, completions: list[str], verification_info: list | None = None, **columns: list) -> list[float]:
        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(self._score, completions, verification_info or [None] * len(completions)))

    def _score(self, completion: str, info: dict | str | None) -> float:
        info = _verification(info)
        if not info:
            return 0.0
        if not self.may_run:
            raise ValueError(
                "external_code_reward would run code written by the model; set CHEX_RUN_CODE=1, inside a container"
                " only, or drop verification_info from the data"
            )
        code = fenced_code(completion, "python") if info["language"] == "python" else None
        return fraction_passed(code, info["test_cases"]) if code else 0.0


class CodeFormatORM(ORM):
    """1.0 for the think/answer shape with a fenced block, in the row's language if it names one, in the answer."""

    def __call__(self, completions: list[str], verification_info: list | None = None, **columns: list) -> list[float]:
        languages = [_verification(info).get("language") for info in verification_info or [None] * len(completions)]
        return [
            float(has_think_answer_shape(completion) and fenced_code(answer_span(completion), language) is not None)
            for completion, language in zip(completions, languages, strict=True)
        ]


def _verification(info: dict | str | None) -> dict:
    return (json.loads(info) if isinstance(info, str) and info else info) or {}


def report_training(trainer) -> None:
    """Log what is trainable and how the run is spread over processes."""
    import torch.distributed

    rank, _, world_size, _ = get_dist_setting()
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else "none"
    arguments = trainer.args
    device_batch = arguments.per_device_train_batch_size
    global_batch = device_batch * world_size * arguments.gradient_accumulation_steps
    logger.info("only the vision LoRA and lm_head train:\n%s", describe_trainable(trainer.model))
    logger.info(
        f"rank {rank}, world size {world_size}, backend {backend}, devices {get_device_count()},"
        f" distributed {is_dist()}, model parallel {is_mp()}, both {is_mp_ddp()};"
        f" batch per device {device_batch}, global {global_batch}"
    )


orms["external_r1v_acc"] = MultiModalAccuracyORM
orms["external_acc_strict"] = StrictAccuracyORM
orms["external_kg_jac"] = KnowledgeGraphORM
orms["external_kg_f1"] = KnowledgeGraphF1ORM
orms["external_format"] = FormatORM
orms["external_length"] = SoftLengthORM
orms["external_math_acc"] = MathAccuracyORM
orms["external_math_format"] = MathFormatORM
orms["external_countdown"] = CountdownORM
orms["external_code_reward"] = CodeRewardORM
orms["external_code_format"] = CodeFormatORM

if env_switch("FREEZE_NON_VISION_PARAMS"):
    from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer

    freeze_after_construction(GRPOTrainer, report_training)
