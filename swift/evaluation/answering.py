"""Answers to many questions: prompts of like length share a batch, questions about the same images are neighbours, and
the images of the next batch are read while the policy writes.

Batches are a function of the questions and the batching alone, so whoever takes a batch up again, in another process or
after a kill, decodes it in the same company and gets the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from swift.engine.batch import Completions, collate_completions, collate_prompts
from swift.engine.logprobs import completion_logprobs, why_plain
from swift.engine.sampling import Sampling, generate, prompt_uniforms
from swift.engine.staged_sampling import generate_shrinking
from swift.evaluation.token_scores import TokenScores, token_scores
from swift.llm.dataset import Record
from swift.llm.images.cache import DECODING_THREADS
from swift.llm.images.source import image_size
from swift.llm.policy import Policy, embeds_prompts_frozen, is_phi4, prompt_embeddings
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.utils.errors import UserError

MOST_QUESTIONS = 64  # of an automatic batch: more gain little, and all wait for the longest answer
MEMORY_SHARE = 0.8  # of the device, for weights and automatic batches
BYTES_PER_CACHED_BYTE = 4  # what a token takes at the peak for each byte of its keys and values: copies, activations
BATCHES_AHEAD = 1  # read while another is decoded: each holds the pixels of its images


@dataclass(frozen=True)
class AnswerTask:
    """What is asked of the policy for every question."""

    sampling: Sampling
    num_samples: int = 1
    seed: int = 0  # of the samples, with the question's position
    alternatives: int | None = None  # also score each token, and name that many of the most likely; None: do not
    given: Callable[[Record], str] | None = None  # score this text instead of writing one


@dataclass(frozen=True)
class Answer:
    """What the policy wrote for one record, or the text it was given."""

    text: str
    token_ids: tuple[int, ...]  # the end token included, where it came to one
    finished: bool  # stopped by itself, not by the length limit
    scores: TokenScores | None = None


@dataclass(frozen=True)
class Answered:
    """One question with its answers, one a sample; or why its images cannot be read."""

    index: int  # the record's position in the input
    answers: tuple[Answer, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Batching:
    """How many questions, and tokens of prompts and answers with their padding, a batch may hold; None: any number."""

    questions: int
    tokens: int | None = None


def greedy(template: Template, max_new_tokens: int) -> Sampling:
    """The most likely token at each step, until a stop token."""
    return drawn(template, max_new_tokens, 0.0)


def drawn(template: Template, max_new_tokens: int, temperature: float) -> Sampling:
    """Tokens drawn at ``temperature`` until a stop token; never image or audio placeholders."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        stop_token_ids=template.stop_token_ids,
        pad_token_id=template.pad_token_id,
        temperature=temperature,
        banned_token_ids=template.banned_token_ids,
    )


def automatic_threads(model: nn.Module) -> int:
    """How many threads read images ahead: none beside a policy on the CPU, whose cores they would take."""
    return 0 if model.device.type == "cpu" else DECODING_THREADS


def automatic_batching(model: nn.Module) -> Batching:
    """As many questions as fit, up to 64: the tokens whose keys, values and activations fill what the weights leave of
    four fifths of the device's memory, or of a quarter of the machine's where the policy runs on the CPU.

    Counted from the memory that is there, not from what is free just now, so that a run that goes on elsewhere on the
    same kind of device forms the same batches.
    """
    text = model.config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    parameter = next(model.parameters())
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * width * model.dtype.itemsize
    if parameter.is_cuda:
        memory = torch.cuda.get_device_properties(parameter.device).total_memory * MEMORY_SHARE
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4
    room = memory - sum(weight.nbytes for weight in model.parameters())
    return Batching(MOST_QUESTIONS, max(1, int(room / (cached * BYTES_PER_CACHED_BYTE))))


@dataclass(frozen=True)
class _Size:
    """How long a prompt is: tokens of its images, which images, characters of its text."""

    image_tokens: int
    images: tuple[str, ...]
    characters: int


def make_batches(
    template: Template, records: Sequence[Record], positions: Sequence[int], batching: Batching, new_tokens: int
) -> list[list[int]]:
    """The ``positions`` of ``records`` in batches: :func:`decoding_order` cut where a batch is full. ``new_tokens`` is
    what the answers to one question may take; a character of a prompt counts as a token. A question that is over the
    tokens alone is a batch of its own."""
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
    """Whether a batch of that many questions cannot take one more, all of them ``width`` tokens."""
    over = batching.tokens is not None and (questions + 1) * width > batching.tokens
    return questions >= batching.questions or over


def decoding_order(template: Template, records: Sequence[Record], positions: Sequence[int] | None = None) -> list[int]:
    """``positions`` of ``records`` (default: all), the longest prompts first (so that memory runs out at once or not at
    all).

    Among prompts with equally many image tokens, those about the same images stand together, so that the template's
    cache decodes an image once.
    """
    return _in_order(_sizes(template, records, range(len(records)) if positions is None else positions))


def _in_order(sizes: dict[int, _Size]) -> list[int]:
    def key(index: int) -> tuple[int, tuple[str, ...], int, int]:
        size = sizes[index]
        return size.image_tokens, size.images, size.characters, -index

    return sorted(sizes, key=key, reverse=True)


def _sizes(template: Template, records: Sequence[Record], positions: Sequence[int]) -> dict[int, _Size]:
    """Each position's size. Reads image headers only, each once. Raises UserError as :func:`image_size` does."""
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
    """The answers to each batch of positions, as soon as it is done."""
    for indexes, prompts in read_ahead(template, records, batches):
        read = [(index, prompt) for index, prompt in zip(indexes, prompts, strict=True) if not _failed(prompt)]
        answers = dict(zip((index for index, _ in read), _answer(policy, template, records, read, task), strict=True))
        yield [
            Answered(index, (), str(prompt)) if _failed(prompt) else Answered(index, answers[index])
            for index, prompt in zip(indexes, prompts, strict=True)
        ]


def read_ahead(
    template: Template, records: Sequence[Record], batches: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], list[EncodedPrompt | UserError]]]:
    """Each batch with its encoded prompts, in order; in place of a prompt that cannot be made, what is wrong with it.
    The template's threads decode the images of the next batch while this one is being used."""

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
) -> list[tuple[Answer, ...]]:
    """The answers to each question of one batch."""
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
        decode = generate_shrinking if is_phi4(policy.model) else partial(generate, shared=False)
        completions = decode(policy.model, prompts, task.num_samples, task.sampling, uniforms)
    scores: Sequence[TokenScores | None] = [None] * len(completions)
    if task.alternatives is not None:
        packed = task.num_samples > 1 and is_phi4(policy.model) and why_plain(policy.model) is None
        with torch.no_grad():
            found = completion_logprobs(
                policy.model,
                prompts,
                completions,
                packed=packed,
                with_entropy=True,
                alternatives=task.alternatives,
            )
        scores = token_scores(template, completions, found)
    answers = _answers(template, completions, scores)
    return [tuple(answers[start : start + task.num_samples]) for start in range(0, len(answers), task.num_samples)]


def _uniforms(read: Sequence[tuple[int, EncodedPrompt]], task: AnswerTask) -> torch.Tensor | None:
    """Numbers [B * K, tokens] to sample by: a function of seed and question alone."""
    if task.sampling.temperature == 0:
        return None
    length = task.sampling.max_new_tokens
    rows = [prompt_uniforms((task.seed, index), task.num_samples, length) for index, _ in read]
    return torch.cat([torch.from_numpy(row) for row in rows])


def _answers(template: Template, completions: Completions, scores: Sequence[TokenScores | None]) -> list[Answer]:
    rows = zip(completions.token_lists(), completions.finished.tolist(), scores, strict=True)
    return [Answer(template.decode(ids), tuple(ids), ended, found) for ids, ended, found in rows]
