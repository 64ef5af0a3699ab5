"""Rewards and the freezing hook. This is the file to edit.

    python -m swift.cli.rlhf --external_plugins plugin.py --reward_funcs external_r1v_acc external_kg_jac ...

To add a reward, write a class derived from ``ORM`` and register it in ``orms`` under the name to use on the command
line. It is called with the sampled completions and, by name, with every column of their dataset records, all lists of
one length. It returns a list with a number per completion, or None where it does not apply. A reward for short answers:

    class ShortORM(ORM):
        def __call__(self, completions, **columns):
            return [1.0 if len(completion) < 200 else 0.0 for completion in completions]

    orms["external_short"] = ShortORM

The file uses only names that ms-swift 3.3.0.post1 offers as well, so it also runs there unchanged.

Two of the rewards are the published ones and can be gamed: ``external_r1v_acc`` by naming every possible answer, and
``external_kg_jac`` by saying nothing (``python -m tools.reward_audit`` shows both). ``external_findings``,
``external_acc_strict`` and ``external_consistency`` together close these ways.

Environment variables:
    FREEZE_NON_VISION_PARAMS=1  train the vision LoRA and lm_head only
    KG_TEXT=whole               let external_kg_jac read the whole completion instead of its <think> part
    KG_REPORTS=FOLDER           reports of the studies for external_kg_report
    RADEVAL_METRIC=radgraph:radgraph_partial   the metric of external_radeval
    CHEX_RUN_CODE=1             let external_code_reward run the code that the model writes, in a sandbox
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ReXKG.finding_scores import findings_score, report_score
from ReXKG.findings import FindingReader
from ReXKG.graph import empty_unions, graph_f1, graph_jaccard
from swift.plugin import ORM, orms
from swift.utils import get_device_count, get_dist_setting, get_logger, is_dist, is_mp, is_mp_ddp
from utils.answers import (
    READINGS,
    answer_span,
    answers_agree,
    has_think_answer_shape,
    parse_answers,
    reasoning_of,
    think_span,
    think_text,
)
from utils.consistency import asked_questions, consistency, reasoning_signs
from utils.countdown import solves_countdown
from utils.freezing import describe_trainable, freeze_after_construction
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name, finding_reader
from utils.mimic import Reports, find_reports, reports_missing
from utils.radeval_metric import load_radeval_metric
from utils.run_code import answers_with_code, chosen_runner, code_score
from utils.strict_rewards import reasons_then_answers, soft_length_penalty, strict_accuracy
from utils.switches import env_switch

logger = get_logger()


class MultiModalAccuracyORM(ORM):
    """1.0 if the completion's answers agree with the solution's (``utils.answers`` has the rule), else 0.0."""

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        return [
            float(answers_agree(parse_answers(completion), parse_answers(truth)))
            for completion, truth in zip(completions, solution, strict=True)
        ]


class StrictAccuracyORM(ORM):
    """F1 of the completion's answers against the solution's, in [0, 1].

    All ``<answer>`` spans count. Naming every possible answer costs precision; one that contradicts itself scores 0.
    """

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        return [strict_accuracy(*texts) for texts in zip(completions, solution, strict=True)]


class GraphReward(ORM):
    """Base of the rewards on graphs and findings. It extracts all new texts of a call at once and caches references.

    ``extract`` maps texts to graphs; by default it is the extractor that REXKG_EXTRACTOR chooses.
    """

    cached_references = 8192  # graphs of reference texts kept at most; the oldest leave first

    def __init__(self, extract: Callable[[list[str]], list[dict]] | None = None):
        if extract is None:
            extractor_name()  # asking for it loads the extractor now, and not within a call
        self.extract = extract or extract_knowledge_graph
        self.read = FindingReader(extract) if extract else finding_reader()
        self.references: dict[str, dict] = {}

    def graph_pairs(self, texts: list[str], references: list[str]) -> list[tuple[dict, dict]]:
        """The graph of each text together with the graph of its reference text."""
        new = [text for text in dict.fromkeys([*texts, *references]) if text not in self.references]
        graphs = self.references | dict(zip(new, self.extract(new), strict=True))
        self._cache({reference: graphs[reference] for reference in references})
        return [(graphs[text], graphs[reference]) for text, reference in zip(texts, references, strict=True)]

    def reading_pairs(self, completions: list[str], references: list[str]) -> list[tuple]:
        """The findings of each completion's ``<think>`` span and of its reference text."""
        readings = self.read([*(think_span(text) or "" for text in completions), *references])
        return list(zip(readings[: len(completions)], readings[len(completions) :], strict=True))

    def metrics(self, completions: list[str], **columns: list) -> dict[str, tuple[float, float]]:
        """The signs of gaming that `utils.consistency.reasoning_signs` counts. Training logs them."""
        return reasoning_signs(completions, asked_questions(len(completions), columns), self.read)

    def _cache(self, graphs: dict[str, dict]) -> None:
        self.references.update(graphs)
        while len(self.references) > self.cached_references:
            del self.references[next(iter(self.references))]


class ReasoningReward(GraphReward):
    """Base of the graph rewards that compare with the solution's reasoning. Without reasoning they are None."""

    reads_reasoning = True  # a record whose solution is only an answer has nothing to compare with

    def scores(self, texts: list[str], solutions: list[str], score: Callable) -> list[float | None]:
        """The score of each text's graph against that of its solution's reasoning; None without reasoning."""
        references = [reasoning_of(truth) for truth in solutions]
        pairs = self.graph_pairs(texts, [reference or "" for reference in references])
        return [None if truth is None else score(*pair) for truth, pair in zip(references, pairs, strict=True)]


class KnowledgeGraphORM(ReasoningReward):
    """Mean of the entity and relation Jaccard indexes between the graphs of completion and solution, in [0, 1].

    Graphs are extracted from the ``<think>`` part of a text, or from the whole text if it has none. With
    ``KG_TEXT=whole`` the completion is always read whole, as in the published code.
    """

    def __init__(self, extract: Callable[[list[str]], list[dict]] | None = None):
        reading = os.environ.get("KG_TEXT") or "think"
        if reading not in READINGS:
            raise ValueError(f"KG_TEXT={reading!r} is unknown; set KG_TEXT=think (the default) or KG_TEXT=whole")
        self.read_completion = READINGS[reading]
        super().__init__(extract)

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        texts = [self.read_completion(completion) for completion in completions]
        return self.scores(texts, solution, graph_jaccard)

    def metrics(self, completions: list[str], solution: list[str], **columns: list) -> dict[str, tuple[float, float]]:
        """The signs, and the share of this reward that entities or relations absent on both sides have earned."""
        rows = zip(completions, map(reasoning_of, solution), strict=True)
        compared = [(self.read_completion(completion), truth) for completion, truth in rows if truth is not None]
        pairs = self.graph_pairs([text for text, _ in compared], [truth for _, truth in compared])
        earned = sum(empty_unions(*pair) / 2 for pair in pairs), sum(graph_jaccard(*pair) for pair in pairs)
        return super().metrics(completions, **columns) | {"signs/empty_unions": earned}


class KnowledgeGraphF1ORM(ReasoningReward):
    """Mean of the entity and relation F1 between the graphs of the complete ``<think>`` span and of the solution, in
    [0, 1]. If neither has a relation, the entity F1 counts alone. A solution without entities gives 0."""

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        texts = [think_span(completion) or "" for completion in completions]
        return self.scores(texts, solution, lambda own, truth: graph_f1(own, truth) if truth["entities"] else 0.0)


class FormatORM(ORM):
    """1.0 for one ``<think>`` span that says something, then one ``<answer>`` span, and nothing else, otherwise 0.0."""

    def __call__(self, completions: list[str], **columns: list) -> list[float]:
        return [float(reasons_then_answers(completion)) for completion in completions]


class SoftLengthORM(ORM):
    """0.0 for completions that leave ``soft_cache_length`` tokens unused, falling to -1.0 at ``max_completion_length``.

    The soft overlong punishment of DAPO (arXiv 2503.14476). Both lengths come from the training arguments, if they are
    there. Tokens are counted as sampled (``completion_tokens``); without this column the tokenizer counts them.
    """

    def __init__(self, max_completion_length: int = 256, soft_cache_length: int | None = None, tokenizer: Any = None):
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
    """1.0 if the answer is mathematically equal to the solution's (``math_verify`` decides), else 0.0."""

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
    """1.0 if the answer is an equation that uses each of ``nums`` once and reaches ``target``, else 0.0."""

    def __call__(self, completions: list[str], target: list, nums: list[list[int]], **columns: list) -> list[float]:
        return [
            float(solves_countdown(answer_span(completion) or "", numbers, goal))
            for completion, numbers, goal in zip(completions, nums, target, strict=True)
        ]


class CodeRewardORM(ORM):
    """Share of the test cases in ``verification_info`` that the last fenced block of the completion passes.

    ``utils.run_code`` has the form of the column. Code runs only with CHEX_RUN_CODE=1, in a sandbox; without, a record
    that requires it is an error.
    """

    def __init__(self):
        self.run = chosen_runner()

    def __call__(self, completions: list[str], verification_info: list | None = None, **columns: list) -> list[float]:
        rows = zip(completions, verification_info or [None] * len(completions), strict=True)
        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(lambda row: code_score(*row, self.run), rows))


class CodeFormatORM(ORM):
    """1.0 for one ``<think>`` span followed by one ``<answer>`` span that holds a fenced block, otherwise 0.0.

    If ``verification_info`` names a language, the block must be in it.
    """

    def __call__(self, completions: list[str], verification_info: list | None = None, **columns: list) -> list[float]:
        rows = zip(completions, verification_info or [None] * len(completions), strict=True)
        return [float(answers_with_code(*row)) for row in rows]


class FindingsORM(ReasoningReward):
    """Agreement of the findings of ``<think>`` with the solution's, from -1 to 1: `findings_score`. No findings: 0."""

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float | None]:
        references = [reasoning_of(truth) for truth in solution]
        pairs = zip(self.reading_pairs(completions, [text or "" for text in references]), references, strict=True)
        return [
            None if text is None else findings_score(own.findings, truth.findings, own.repeated)
            for (own, truth), text in pairs
        ]


class ConsistencyORM(GraphReward):
    """1.0 if the ``<think>`` span supports the answer, 0.0 if it says nothing of it, -1.0 if it opposes it or itself.

    `utils.consistency` has the rules. The question is the column ``question``, else the last user turn of ``messages``.
    """

    def __call__(self, completions: list[str], **columns: list) -> list[float]:
        return consistency(completions, asked_questions(len(completions), columns), self.read)


class ReportORM(GraphReward):
    """Agreement of the findings of the ``<think>`` span with the radiologist's report, above -1 and below 1.

    `ReXKG.finding_scores.report_score` is the formula. The report is the column ``report``, else that of the column
    ``study_id`` in ``KG_REPORTS``, a source that `utils.mimic` reads. A record without a report gets None.
    """

    def __init__(self, extract: Callable[[list[str]], list[dict]] | None = None):
        super().__init__(extract)
        self.reports = Reports(os.environ["KG_REPORTS"]) if os.environ.get("KG_REPORTS") else None

    def lacking(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """See `ORM`."""
        return reports_missing(rows, self.reports)

    def __call__(self, completions: list[str], **columns: list) -> list[float | None]:
        texts = find_reports(len(completions), columns, self.reports)
        pairs = zip(self.reading_pairs(completions, [text or "" for text in texts]), texts, strict=True)
        return [None if text is None else report_score(own.findings, truth.findings) for (own, truth), text in pairs]


class RadEvalORM(ORM):
    """A metric of the package radeval between both ``<think>`` spans; RADEVAL_METRIC names it (default: bleu)."""

    def __init__(self):
        self.metric = load_radeval_metric(os.environ.get("RADEVAL_METRIC") or "bleu")

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float | None]:
        return self.metric([think_span(text) or "" for text in completions], list(map(think_text, solution)))


def report_training(trainer: Any) -> None:
    """Log the trainable parameters, the processes and the batch size of a run."""
    import torch.distributed

    rank, _, world_size, _ = get_dist_setting()
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else "none"
    batch, steps = trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps
    for line in ("only the vision LoRA and lm_head train:", *describe_trainable(trainer.model).splitlines()):
        logger.info(line)
    logger.info(
        f"rank {rank}, world size {world_size}, backend {backend}, devices {get_device_count()},"
        f" distributed {is_dist()}, model parallel {is_mp()}, both {is_mp_ddp()};"
        f" batch per device {batch}, global {batch * world_size * steps}"
    )


orms["external_r1v_acc"] = MultiModalAccuracyORM
orms["external_acc_strict"] = StrictAccuracyORM
orms["external_kg_jac"] = KnowledgeGraphORM
orms["external_kg_f1"] = KnowledgeGraphF1ORM
orms["external_findings"] = FindingsORM
orms["external_consistency"] = ConsistencyORM
orms["external_kg_report"] = ReportORM
orms["external_radeval"] = RadEvalORM
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
