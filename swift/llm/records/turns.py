"""The conversation of a record in one form: turns of ``{role, content}``, the answer, and images within the turns.

A conversation is one of these:

    messages          turns of {role, content}; a content is a text, or a list of texts and images as OpenAI has it
    conversations     ShareGPT's turns of {from, value}; roles and names of both forms may be mixed
    question          or query, problem, prompt, instruction (with input): one question, after ``system``, ``history``

The answer is the final assistant turn, or the field ``response`` (output, completion). Images within the turns become
placeholders ``<image>`` in the text, unless all of them stand before the first question, which is their place anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from swift.llm.records.image_fields import ImageValue, is_empty, read_images
from swift.llm.records.values import check_whole, describe_kind, text_of
from swift.utils.errors import UserError

MESSAGE_ROLES = ("system", "user", "assistant")
CONVERSATION_FIELDS = ("messages", "conversations", "conversation")
QUESTION_FIELDS = ("question", "query", "problem", "prompt", "instruction", "input")
RESPONSE_FIELDS = ("response", "output", "completion")
PLACEHOLDER_TEXT = "<image>"
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
_IMAGE_TAG = re.compile(r"<img>(.*?)</img>", re.DOTALL)  # a path within the text, as in Qwen-VL's data

Turn = dict[str, str]


class Conversation(NamedTuple):
    """The prompt's turns, the answer if there is one, and the images within the turns."""

    turns: tuple[Turn, ...]
    answer: str | None
    images: tuple[ImageValue, ...] = ()


def read_conversation(item: Any) -> Conversation:
    """Read the conversation of a record. Raises UserError if ``item`` is not a record or asks nothing."""
    if not isinstance(item, dict):
        raise UserError(f"a record is an object, this one is {describe_kind(item)}")
    field = next((name for name in CONVERSATION_FIELDS if not is_empty(item.get(name))), None)
    if field is None and isinstance(item.get("prompt"), list):
        field = "prompt"
    if field is None:
        turns, field = _asked(item), "messages"
        images: list[ImageValue] = []
        turns = [turn | {"content": _take_tags(turn["content"], images)} for turn in turns]
    else:
        turns, images = _read_turns(item[field], field)
        turns = _with_system(item, turns)
    answer = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else _response(item)
    if not turns or turns[-1]["role"] != "user":
        raise UserError(f'field \'{field}\' has no user turn to answer; add {{"role": "user", ...}}')
    if images:
        turns = _without_leading_placeholders(turns, len(images))
    return Conversation(tuple(turns), answer, tuple(images))


def _asked(item: Mapping[str, Any]) -> list[Turn]:
    """The turns of a record that asks one question in a field of its own."""
    field = next((name for name in QUESTION_FIELDS if item.get(name) not in (None, "")), None)
    if field is None:
        if "messages" in item and item["messages"] is not None:
            _turn_list(item["messages"], "messages")
            raise UserError('field \'messages\' has no user turn to answer; add {"role": "user", ...}')
        raise UserError("no field 'messages' nor 'question'; the record asks nothing")
    question = text_of(item, field)
    if field == "instruction" and (more := text_of(item, "input")):
        question = f"{question}\n{more}"
    return _with_system(item, [*_history(item), {"role": "user", "content": question}])


def _with_system(item: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    """The turns after the record's field ``system``, unless they have a system turn of their own."""
    system = text_of(item, "system") if isinstance(item.get("system"), str) else None
    return (
        [{"role": "system", "content": system}, *turns]
        if system and turns[:1] and turns[0]["role"] != "system"
        else turns
    )


def _history(item: Mapping[str, Any]) -> Iterator[Turn]:
    """Earlier rounds, ms-swift's field ``history``: a list of [question, answer]."""
    for position, pair in enumerate(_turn_list(item.get("history") or [], "history")):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise UserError(f"field 'history'[{position}] must be a question and its answer, two texts")
        yield from ({"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True))


def _response(item: Mapping[str, Any]) -> str | None:
    """The answer in a field of its own: a text, or a list of one assistant turn."""
    field = next((name for name in RESPONSE_FIELDS if not is_empty(item.get(name))), None)
    if field is None:
        return None
    if isinstance(item[field], list):
        turns, _ = _read_turns(item[field], field)
        if len(turns) == 1 and turns[0]["role"] == "assistant":
            return turns[0]["content"]
    return text_of(item, field)


def _turn_list(messages: Any, field: str) -> list[Any]:
    if not isinstance(messages, list):
        raise UserError(f"field '{field}' must be a list of turns, it is {describe_kind(messages)}")
    return messages


def _read_turns(messages: Any, field: str) -> tuple[list[Turn], list[ImageValue]]:
    """The turns of a field, and the images within them."""
    turns: list[Turn] = []
    images: list[ImageValue] = []
    for position, message in enumerate(_turn_list(messages, field)):
        place = f"field '{field}' turn {position}"
        turns += _read_turn(message, place, images)
    return turns, images


def _read_turn(message: Any, place: str, images: list[ImageValue]) -> list[Turn]:
    """One turn, or the two of ms-swift's ``{"human", "assistant"}``. Images within it are added to ``images``."""
    if isinstance(message, dict):  # tables fill what one of two forms lacks with nulls
        message = {name: value for name, value in message.items() if value is not None}
    if isinstance(message, dict) and "human" in message and "assistant" in message:
        pair = (("user", message["human"]), ("assistant", message["assistant"]))
        return [{"role": role, "content": _content(text, place, role, images)} for role, text in pair]
    stated = message.get("role", message.get("from")) if isinstance(message, dict) else None
    role = _ROLES.get(stated.lower()) if isinstance(stated, str) else None
    if role is None:
        raise UserError(f"{place}: needs a role, one of {', '.join(MESSAGE_ROLES)}")
    content = message.get("content", message.get("value"))
    return [{"role": role, "content": _content(content, place, role, images)}]


def _content(content: Any, place: str, role: str, images: list[ImageValue]) -> str:
    """The text of a turn. Images within it are added to ``images`` and become placeholders."""
    if isinstance(content, str):
        check_whole(content, place)
        return _take_tags(content, images) if role == "user" else content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not content:
        raise UserError(f"{place}: 'content' must be text, it is {describe_kind(content)}")
    return "".join(_part(part, f"{place} part {number}", role, images) for number, part in enumerate(content))


def _part(part: Any, place: str, role: str, images: list[ImageValue]) -> str:
    """The text of one part of a content list."""
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise UserError(f"{place} must be an object with a type, it is {describe_kind(part)}")
    kind = part.get("type") or next((name for name in ("text", "image", "image_url") if part.get(name)), None)
    if kind in ("text", "input_text", "output_text"):
        if not isinstance(part.get("text"), str):
            raise UserError(f"{place}: 'text' must be text, it is {describe_kind(part.get('text'))}")
        check_whole(part["text"], place)
        return part["text"]
    if kind in ("image", "image_url", "input_image"):
        if role != "user":
            raise UserError(f"{place} is an image in a turn of the {role}; only user turns show images")
        value = next((part[key] for key in _PART_SOURCES if not is_empty(part.get(key))), None)
        images += [image._replace(place=place) for image in read_images(value, place)]
        return PLACEHOLDER_TEXT
    raise UserError(f"{place} has the type {kind!r}; only text and images are read")


_PART_SOURCES = ("image", "image_url", "source", "url", "path", "bytes", "data")


def _take_tags(text: str, images: list[ImageValue]) -> str:
    """``text`` with placeholders in place of ``<img>PATH</img>``, whose paths are added to ``images``."""
    if "<img>" not in text:
        return text
    images += [ImageValue("field 'messages'", path.strip()) for path in _IMAGE_TAG.findall(text)]
    return _IMAGE_TAG.sub(PLACEHOLDER_TEXT, text)


def _without_leading_placeholders(turns: Sequence[Turn], count: int) -> list[Turn]:
    """The turns without placeholders if all ``count`` of them stand before the text of the first user turn."""
    first = next(place for place, turn in enumerate(turns) if turn["role"] == "user")
    text = turns[first]["content"]
    lead = PLACEHOLDER_TEXT * count
    if not text.startswith(lead) or text.count(PLACEHOLDER_TEXT) != count:
        return list(turns)
    return [*turns[:first], turns[first] | {"content": text[len(lead) :].lstrip("\n")}, *turns[first + 1 :]]
