"""Statements: the sentences of a text that a reader of findings reads."""

from __future__ import annotations

import re

from ReXKG.lexicon.wording import split_statements
from ReXKG.text import split_sentences

_SENTENCE = re.compile(r"(?<=[!?\n])|(?<=\.)(?!\d)")
_ANSWER = re.compile(
    r"\s*(?:(?:yes|no|none|negative|positive|present|absent)\s*(?:[.,;:!]|$)"
    r"|(?:not|none|nothing|neither|nil|it is|it isn['’]t|there (?:is|are) none)\b)",
    re.IGNORECASE,
)
# Questions and tasks that are written without a question mark.
_ASKS = re.compile(
    r"(?:compared [^,]*,\s*)?(?:(?:is|are|was|were|do|does|did|has|have|can|could|would|should|will) "
    r"(?:there|this|that|these|the|it|any|an?|you|we)\b|(?:what|where|how|whether|list|name|identify|describe)\b"
    r"|(?:on |in )?which (?:is|are|of|side|image|view|lung|zone|region|sex|severity|findings?|abnormalit|devices?)\b)",
    re.IGNORECASE,
)
# The announcement of a finding as the answer. One of yes or no answers a question.
_CONCLUSION = re.compile(
    r"\b(?:the|my|final) answer (?:is|would be|must be|should be|:)(?!\W*(?:yes|no|that)\b)", re.IGNORECASE
)


def stating_sentences(text: str) -> list[str]:
    """The statements of a text (`split_statements`) without the announcement of the answer ("so the answer is edema").

    For an extractor that leaves out by itself what is only asked.
    """
    statements = [part.strip() for part in split_statements(text)]
    return [statement for statement in statements if "?" in statement or not _CONCLUSION.search(statement)]


def answered_sentences(text: str) -> list[str]:
    """The sentences of a text without questions that no answer follows, and without the announcement of the answer.

    For an extractor that reads what is asked as if it were said.
    """
    if "?" in text:
        parts = _SENTENCE.split(text)
        answered = [bool(_ANSWER.match(after)) for after in [*parts[1:], ""]]
        text = "".join(part for part, kept in zip(parts, answered, strict=True) if kept or not part.endswith("?"))
    return [sentence for part in split_sentences(text) if _states(sentence := part.strip())]


def _states(sentence: str) -> bool:
    return not _CONCLUSION.search(sentence) and ("?" in sentence or not _ASKS.match(sentence))
