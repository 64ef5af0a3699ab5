"""The parts of a record of any accepted shape: turns, solution and images.

The solution is the first of these that is not empty:

    solution          text with <think> and <answer>, or any other
    the answer        the final assistant turn, or ``response``, ``output``, ``completion``
    explanation       as in evaluation files
    answer            ``<answer>...</answer>`` around the answers, with a comma between two; it holds no reasoning
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from swift.llm.records.image_fields import ImageValue, canonical_name, image_choices, is_empty, plan_fields
from swift.llm.records.turns import (
    CONVERSATION_FIELDS,
    QUESTION_FIELDS,
    RESPONSE_FIELDS,
    Conversation,
    Turn,
    read_conversation,
)
from swift.llm.records.values import describe_kind, text_of, text_of_answer
from swift.utils.errors import UserError

ANSWER_FIELDS = ("answer", "answers", "ground_truth", "gt_answer", "correct_answer")
# Fields that are known under any case and with any separators: "Question", "Subject ID".
_KNOWN = (
    *CONVERSATION_FIELDS, *QUESTION_FIELDS, *RESPONSE_FIELDS, *ANSWER_FIELDS, "system", "history", "solution",
    "explanation", "subject_id", "study_id", "idx",
)  # fmt: skip
_BY_NAME = {canonical_name(field): field for field in _KNOWN}
_ANSWER_SPAN = re.compile(r"<answer>.*?</answer>", re.DOTALL)


class RecordParts(NamedTuple):
    """A record in one form. ``solution_field`` names the field of the solution: messages, response, answer ...

    ``choices`` are the images of each image field that has some, the preferred field first.
    """

    turns: tuple[Turn, ...]
    solution: str | None
    solution_field: str | None
    choices: tuple[list[ImageValue], ...]

    @property
    def images(self) -> list[ImageValue]:
        """The images of the preferred field."""
        return self.choices[0] if self.choices else []


def plain_names(item: Any) -> Any:
    """The record with its known fields under their own names: ``Question`` becomes ``question``, unless there is one.
    Anything but a record stays as it is."""
    if not isinstance(item, dict):
        return item
    renamed = _renamed(tuple(item))
    return {renamed.get(field, field): value for field, value in item.items()} if renamed else item


def with_names(item: Any, names: Mapping[str, str]) -> Any:
    """The record with its fields under the names that ``names`` gives them. Raises UserError if a record has another
    value under such a name. Anything but a record stays as it is."""
    if not names or not isinstance(item, dict):
        return item
    for field, name in names.items():
        if field in item and name != field and name not in names and not is_empty(item.get(name)):
            raise UserError(f"field '{name}' holds a value of its own, and --columns names '{field}' so; drop one")
    taken = {name for field, name in names.items() if field in item}
    kept = {field: value for field, value in item.items() if field not in names and field not in taken}
    return kept | {name: item[field] for field, name in names.items() if field in item}


@lru_cache(maxsize=4096)
def _renamed(fields: tuple[str, ...]) -> dict[str, str]:
    known = {field: _BY_NAME.get(canonical_name(field), field) for field in fields}
    return {field: name for field, name in known.items() if name != field and name not in fields}


def read_parts(item: Any, image_fields: tuple[str, ...] = ()) -> RecordParts:
    """Read a record of any accepted shape. With ``image_fields``, these alone hold images. Raises UserError."""
    item = plain_names(item)
    conversation = read_conversation(item)
    field, solution = find_solution_field(item, conversation.answer)
    choices = tuple(image_choices(item, image_fields))
    return RecordParts(conversation.turns, solution, field, _with_inline(conversation, choices))


def find_solution(item: Any) -> str | None:
    """The record's reference text: its ``solution``, answer of the conversation or ``explanation``. None if it has at
    most an ``answer``, which holds no reasoning. Raises UserError if ``item`` is not a record."""
    item = plain_names(item)
    field, solution = find_solution_field(item, read_conversation(item).answer)
    return None if field in ANSWER_FIELDS else solution


def find_solution_field(item: Mapping[str, Any], answer: str | None) -> tuple[str | None, str | None]:
    """The field of the solution, and the solution. ``answer`` is that of the conversation."""
    for field, text in _candidates(item, answer):
        if text:
            return field, text
    return None, None


def _candidates(item: Mapping[str, Any], answer: str | None) -> Iterator[tuple[str, str | None]]:
    yield "solution", text_of(item, "solution")
    yield "messages", answer
    yield "explanation", text_of(item, "explanation")
    for field in ANSWER_FIELDS:
        yield field, _tagged_answer(item.get(field))


def missing_solution(item: Mapping[str, Any]) -> str:
    """The message about a record without a solution."""
    answer = plain_names(item).get("answer")
    if not is_empty(answer):
        return (
            "field 'answer' must be a text, a number, true or false, or a list of these, it is "
            f"{describe_kind(answer)}; write the answer as a text, or add 'solution'"
        )
    return (
        "field 'solution' is missing or empty, and the training needs it: add it, or a final assistant turn, "
        "'explanation' or 'answer'"
    )


def _tagged_answer(value: Any) -> str | None:
    """The solution that consists of an ``answer`` alone; None if it is absent or has no form of an answer."""
    answers = value if isinstance(value, list) else [value]
    texts = [text_of_answer(entry) for entry in answers]
    if None in texts or value == "":
        return None
    if len(texts) == 1 and "<answer>" in texts[0]:
        return texts[0]
    return f"<answer>{', '.join(text.strip() for text in texts)}</answer>"


def _with_inline(conversation: Conversation, choices: tuple[list[ImageValue], ...]) -> tuple[list[ImageValue], ...]:
    """The images within the turns, or those of the fields. Raises UserError if there are both and they differ."""
    if not conversation.images:
        return choices
    inline = list(conversation.images)
    if choices and [image.written for image in choices[0]] != [image.written for image in inline]:
        raise UserError(
            f"{len(inline)} images are named within the turns and {len(choices[0])} in {choices[0][0].place}; "
            "keep one of the two"
        )
    return (inline,)


def has_reasoning(solution: str | None, item: Mapping[str, Any]) -> bool:
    """True if a solution says more than the answer: something beside its ``<answer>`` span, other than the record's
    ``answer`` once more."""
    bare = _ANSWER_SPAN.sub("", solution or "").strip()
    answer = _tagged_answer(item.get("answer")) or ""
    return bool(bare) and bare.rstrip(".").lower() != answer.removeprefix("<answer>").removesuffix("</answer>").lower()


def fields_of_parts(item: Mapping[str, Any]) -> set[str]:
    """The fields that `read_parts` reads images and turns from."""
    images = {field for field, *_ in plan_fields(tuple(item)).images}
    return images | {field for field in item if canonical_name(field) in CONVERSATION_FIELDS}
