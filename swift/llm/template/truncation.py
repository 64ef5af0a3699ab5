"""Prompts that are longer than --max_length: left out, or shortened at one end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from swift.llm.dataset import PLACEHOLDER, Record
from swift.llm.template.protocol import Template
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

ROUNDS = 16  # shortened text may take other tokens at the cut, so that a few more have to go


def fit_prompts(template: Template, records: Sequence[Record], strategy: str | None, limit: int | None) -> list[Record]:
    """The records whose prompts have at most ``limit`` tokens, and the others by ``strategy``.

    ``delete`` leaves them out. ``left`` and ``right`` cut the text of the turns at that end; images stay. A prompt that
    is too long without any text stays as it is, for `Template.check_prompts` to refuse. Raises UserError if no record
    is left.
    """
    if strategy is None or limit is None:
        return list(records)
    fitting, changed = [], 0
    for record in records:
        excess = template.prompt_length(record) - limit
        changed += excess > 0
        if excess <= 0:
            fitting.append(record)
        elif strategy != "delete":
            fitting.append(shorten(template, record, excess, limit, from_left=strategy == "left"))
    if changed:
        what = "left out" if strategy == "delete" else f"cut at the {strategy}"
        logger.warning("%d of %d prompts were over --max_length %d and are %s", changed, len(records), limit, what)
    if records and not fitting:
        raise UserError(f"all {len(records)} prompts are over --max_length {limit}; raise it, or lower --dynamic_hd")
    return fitting


def shorten(template: Template, record: Record, excess: int, limit: int, *, from_left: bool) -> Record:
    """The record with ``excess`` tokens or a few more cut from the text of its turns, so that its prompt fits."""
    cut = 0
    for _ in range(ROUNDS):
        cut += excess
        shorter = _cut_text(template.tokenizer, record, cut, from_left)
        excess = template.prompt_length(shorter) - limit
        if excess <= 0 or not any(_words(message["content"]) for message in shorter.messages):
            break
    return shorter


def _cut_text(tokenizer: PreTrainedTokenizerBase, record: Record, count: int, from_left: bool) -> Record:
    """The record without the first or last ``count`` tokens of its text; image placeholders stay."""
    turns = [_pieces(message["content"]) for message in record.messages]
    places = [(turn, piece) for turn, pieces in enumerate(turns) for piece in range(0, len(pieces), 2)]
    for turn, piece in places if from_left else reversed(places):
        ids = tokenizer.encode(turns[turn][piece], add_special_tokens=False)
        gone = min(count, len(ids))
        rest = ids[gone:] if from_left else ids[: len(ids) - gone]
        if gone:
            turns[turn][piece] = tokenizer.decode(rest, clean_up_tokenization_spaces=False).strip("\ufffd")
        count -= gone
    contents = ("".join(pieces) for pieces in turns)
    messages = (message | {"content": content} for message, content in zip(record.messages, contents, strict=True))
    return replace(record, messages=tuple(messages))


def _pieces(content: str) -> list[str]:
    """``content`` cut at its image placeholders: text, placeholder, text, and so on."""
    pieces, start = [], 0
    for match in PLACEHOLDER.finditer(content):
        pieces += [content[start : match.start()], match[0]]
        start = match.end()
    return [*pieces, content[start:]]


def _words(content: str) -> str:
    return "".join(_pieces(content)[::2])
