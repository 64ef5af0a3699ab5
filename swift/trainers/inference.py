"""Answers to many questions: prompts of like length share a batch, questions about the same images are neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swift.llm.dataset import Record
from swift.llm.images import image_size
from swift.llm.policy import Policy
from swift.llm.templates import Template
from swift.trainers.rlhf_trainer.batch import collate_prompts
from swift.trainers.rlhf_trainer.rollout import Sampling, generate


@dataclass(frozen=True)
class Answer:
    """What the policy wrote for one record."""

    index: int  # the record's position in the input
    text: str
    token_ids: tuple[int, ...]  # the end token included, where it came to one
    finished: bool  # stopped by itself, not by the length limit


def greedy(template: Template, max_new_tokens: int) -> Sampling:
    """The most likely token at each step, until a stop token."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        stop_token_ids=template.stop_token_ids,
        pad_token_id=template.pad_token_id,
        temperature=0.0,
        banned_token_ids=template.banned_token_ids,
    )


def answer_records(
    policy: Policy, template: Template, records: Sequence[Record], sampling: Sampling, batch_size: int
) -> Iterator[Answer]:
    """One answer per record, each as soon as its batch is done: not in the order of ``records``.

    Raises UserError, naming the record, for an image that cannot be read.
    """
    order = decoding_order(records, template)
    for start in range(0, len(order), batch_size):
        indexes = order[start : start + batch_size]
        prompts = [template.encode_prompt(records[index]) for index in indexes]
        batch = collate_prompts(prompts, template.pad_token_id, policy.model.device)
        completions = generate(policy.model, batch, 1, sampling)
        finished = completions.finished.tolist()
        for index, ids, ended in zip(indexes, completions.token_lists(), finished, strict=True):
            yield Answer(index, template.decode(ids), tuple(ids), ended)


def decoding_order(records: Sequence[Record], template: Template) -> list[int]:
    """Positions of ``records``, the longest prompts first (so that memory runs out at once or not at all).

    Among prompts with equally many image tokens, those about the same images stand together, so that the template's
    cache decodes an image once.
    """
    tokens: dict[str, int] = {}
    for record in records:
        for source in record.images:
            if source.key not in tokens:
                tokens[source.key] = template.image_processor.count_tokens(*image_size(source))

    def size(index: int) -> tuple[int, list[str], int]:
        record = records[index]
        keys = [source.key for source in record.images]
        return sum(tokens[key] for key in keys), keys, sum(len(turn["content"]) for turn in record.messages)

    return sorted(range(len(records)), key=size, reverse=True)
