"""Answers to many questions. Prompts of similar length share a batch, questions about the same images are neighbors,
and the images of the next batch are read while the policy writes.

Batches are a function of the questions and the batching alone. A batch that is answered again, in another process or
after a kill, therefore holds the same questions and gives the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from swift.engine.batch import Completions, collate_completions, collate_prompts
from swift.engine.logprobs import completion_logprobs, why_plain
from swift.engine.probe import shares_cache
from swift.engine.rollout.choosing import Sampling, prompt_uniforms
from swift.engine.rollout.slices import cached_bytes
from swift.engine.sampling import generate
from swift.evaluation.token_scores import TokenScores, token_scores
from swift.llm.dataset import Record
from swift.llm.images.cache import DECODING_THREADS
from swift.llm.images.source import image_size
from swift.llm.policy import Policy, embeds_prompts_frozen, is_phi4, prompt_embeddings
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.utils.errors import UserError

MOST_QUESTIONS = 64  # in an automatic batch; more gain little, and all wait for the longest answer
MEMORY_SHARE = 0.8  # share of the device for weights and automatic batches
BYTES_PER_CACHED_BYTE = 4  # peak bytes per byte of a token's keys and values, with copies and activations
BATCHES_AHEAD = 1  # batches read while another is decoded; each holds the pixels of its images


@dataclass(frozen=True)
class AnswerTask:
    """The request to the policy, the same for every question."""

    sampling: Sampling
    num_samples: int = 1
    seed: int = 0  # seeds the samples, together with the position of the question
    alternatives: int | None = None  # also score each token and list this many most likely ones; None: do not score
    given: Callable[[Record], str] | None = None  # text to score instead of writing one


@dataclass(frozen=True)
class Answer:
    """A text that the policy wrote for one record, or the text that it was given."""

    text: str
    token_ids: tuple[int, ...]  # including the end token if there is one
    finished: bool  # stopped by itself, not by the length limit
    scores: TokenScores | None = None


@dataclass(frozen=True)
class Answered:
    """One question with its answers, one per sample, or the reason why its images cannot be read."""

    index: int  # the record's position in the input
    answers: tuple[Answer, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Batching:
    """Limits of a batch: questions, and tokens of prompts and answers with their padding. None means no limit."""

    questions: int
    tokens: int | None = None


def greedy(template: Template, max_new_tokens: int) -> Sampling:
    """Sampling that takes the most likely token at each step, until a stop token."""
    return drawn(template, max_new_tokens, 0.0)


def drawn(template: Template, max_new_tokens: int, temperature: float) -> Sampling:
    """Sampling at ``temperature`` until a stop token, never of image or audio placeholders."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        stop_token_ids=template.stop_token_ids,
        pad_token_id=template.pad_token_id,
        temperature=temperature,
        banned_token_ids=template.banned_token_ids,
    )


def automatic_threads(model: nn.Module) -> int:
    """Threads that read images ahead. There are none if the policy runs on the CPU, whose cores they would take."""
    return 0 if model.device.type == "cpu" else DECODING_THREADS


def automatic_batching(model: nn.Module) -> Batching:
    """Batching of as many questions as fit, up to 64.

    Weights, keys, values and activations may fill four fifths of the device's memory, or a quarter of the machine's if
    the policy runs on the CPU. The total memory counts, not the memory that is free just now, so that a run resumed on
    another device of the same kind forms the same batches.
    """
    text = model.config.get_text_config()
    parameter = next(model.parameters())
    cached = cached_bytes(text, model.dtype.itemsize)
    if parameter.is_cuda:
        memory = torch.cuda.get_device_properties(parameter.device).total_memory * MEMORY_SHARE
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4
    room = memory - sum(weight.nbytes for weight in model.parameters())
    return Batching(MOST_QUESTIONS, max(1, int(room / (cached * BYTES_PER_CACHED_BYTE))))


@dataclass(frozen=True)
class _Size:
    """Length of a prompt: tokens of its images, keys of the images, characters of its text."""

    image_tokens: int
    images: tuple[str, ...]
    characters: int


def make_batches(
    template: Template, records: Sequence[Record], positions: Sequence[int], batching: Batching, new_tokens: int
) -> list[list[int]]:
    """Divide the ``positions`` of ``records`` into batches: :func:`decoding_order`, cut as soon as a batch is full.

    ``new_tokens`` is the largest number of tokens that the answers to one question may take. A character of a prompt
    counts as a token. A question that exceeds the limit of tokens alone is a batch of its own.
    """
    sizes = _sizes(template, records, positions)
    batches: list[list[int]] = []
    widest = 0
    for index in _in_order(sizes):
        length = sizes[index].image_tokens + sizes[index].characters + new_tokens
        widest = max(widest, length)
        if not batches or _full(len(batches[-1]), widest, batching):
            batches.append([])
            widest = length
        batches[-1].append(index)
    return batches


def _full(questions: int, width: int, batching: Batching) -> bool:
    """True if a batch of that many questions cannot take one more, with ``width`` tokens each."""
    over = batching.tokens is not None and (questions + 1) * width > batching.tokens
    return questions >= batching.questions or over


def decoding_order(template: Template, records: Sequence[Record], positions: Sequence[int] | None = None) -> list[int]:
    """Sort ``positions`` of ``records`` (default: all), the longest prompts first, so that memory runs out at once or
    not at all.

    Among prompts with equally many image tokens, questions about the same images are neighbors, so that the template's
    cache decodes an image once.
    """
    return _in_order(_sizes(template, records, range(len(records)) if positions is None else positions))


def _in_order(sizes: dict[int, _Size]) -> list[int]:
    def key(index: int) -> tuple[int, tuple[str, ...], int, int]:
        size = sizes[index]
        return size.image_tokens, size.images, size.characters, -index

    return sorted(sizes, key=key, reverse=True)


def _sizes(template: Template, records: Sequence[Record], positions: Sequence[int]) -> dict[int, _Size]:
    """The size of each position. Reads image headers only, each once. Raises UserError as :func:`image_size` does."""
    tokens: dict[str, int] = {}
    sizes = {}
    for index in positions:
        record = records[index]
        for source in record.images:
            if source.key not in tokens:
                tokens[source.key] = template.image_processor.count_tokens(*image_size(source))
        keys = tuple(source.key for source in record.images)
        characters = sum(len(turn["content"]) for turn in record.messages)
        sizes[index] = _Size(sum(tokens[key] for key in keys), keys, characters)
    return sizes


def answer_batches(
    policy: Policy,
    template: Template,
    records: Sequence[Record],
    batches: Sequence[Sequence[int]],
    task: AnswerTask,
) -> Iterator[list[Answered]]:
    """Yield the answers to each batch of positions as soon as it is done."""
    shared = True if is_phi4(policy.model) else None  # other models are measured on the first prompts
    for indexes, prompts in read_ahead(template, records, batches):
        read = [(index, prompt) for index, prompt in zip(indexes, prompts, strict=True) if not _failed(prompt)]
        if shared is None and read and task.given is None:
            shared = shares_cache(policy.model, template, [prompt for _, prompt in read])
        answered = _answer(policy, template, records, read, task, shared=bool(shared))
        answers = dict(zip((index for index, _ in read), answered, strict=True))
        yield [
            Answered(index, (), str(prompt)) if _failed(prompt) else Answered(index, answers[index])
            for index, prompt in zip(indexes, prompts, strict=True)
        ]


def read_ahead(
    template: Template, records: Sequence[Record], batches: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], list[EncodedPrompt | UserError]]]:
    """Yield each batch with its encoded prompts, in order. A prompt that cannot be made is replaced by its error.

    The template's threads decode the images of the next batch while this one is being used.
    """

    def encode(index: int) -> EncodedPrompt | UserError:
        try:
            return template.encode_prompt(records[index])
        except UserError as error:
            return error

    for place, batch in enumerate(batches):
        template.prefetch([records[index] for near in batches[place : place + 1 + BATCHES_AHEAD] for index in near])
        yield batch, [encode(index) for index in batch]


def _failed(prompt: EncodedPrompt | UserError) -> bool:
    return isinstance(prompt, UserError)


def _answer(
    policy: Policy,
    template: Template,
    records: Sequence[Record],
    read: Sequence[tuple[int, EncodedPrompt]],
    task: AnswerTask,
    *,
    shared: bool,
) -> list[tuple[Answer, ...]]:
    """The answers to each question of one batch. Prompts are read once per question if ``shared``."""
    if not read:
        return []
    device = policy.model.device
    prompts = collate_prompts([prompt for _, prompt in read], template.pad_token_id, device)
    if task.alternatives is not None and embeds_prompts_frozen(policy.model):  # written and scored: images encoded once
        prompts = prompts.with_embeds(prompt_embeddings(policy.model, prompts.input_ids, prompts.image_inputs()))
    if task.given is not None:
        texts = [template.encode_completion(task.given(records[index])) for index, _ in read]
        completions = collate_completions(texts, template.pad_token_id, device)
    else:
        uniforms = _uniforms(read, task)
        completions = generate(policy.model, prompts, task.num_samples, task.sampling, uniforms, shared=shared)
    scores: Sequence[TokenScores | None] = [None] * len(completions)
    if task.alternatives is not None:
        packed = task.num_samples > 1 and is_phi4(policy.model) and why_plain(policy.model) is None
        with torch.no_grad():
            logprobs = completion_logprobs(
                policy.model,
                prompts,
                completions,
                packed=packed,
                with_entropy=True,
                alternatives=task.alternatives,
            )
        scores = token_scores(template, completions, logprobs)
    answers = _answers(template, completions, scores)
    return [tuple(answers[start : start + task.num_samples]) for start in range(0, len(answers), task.num_samples)]


def _uniforms(read: Sequence[tuple[int, EncodedPrompt]], task: AnswerTask) -> torch.Tensor | None:
    """Uniform numbers [B * K, tokens] for sampling, a function of seed and question alone."""
    if task.sampling.temperature == 0:
        return None
    length = task.sampling.max_new_tokens
    rows = [prompt_uniforms((task.seed, index), task.num_samples, length) for index, _ in read]
    return torch.cat([torch.from_numpy(row) for row in rows])


def _answers(template: Template, completions: Completions, scores: Sequence[TokenScores | None]) -> list[Answer]:
    rows = zip(completions.token_lists(), completions.finished.tolist(), scores, strict=True)
    return [
        Answer(template.prefilled + template.decode(ids), tuple(ids), finished, score) for ids, finished, score in rows
    ]
