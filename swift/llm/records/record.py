"""A record in the form that all later stages use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swift.llm.images.source import ImageSource
from swift.llm.records.parts import has_reasoning


@dataclass(frozen=True)
class Record:
    """One question with its images, in the form that all later stages use."""

    images: tuple[ImageSource, ...]
    messages: tuple[dict[str, str], ...]  # the prompt: {role, content}, without the final assistant turn
    solution: str | None
    columns: dict[str, Any]  # for rewards: the record's fields without messages and images, and ``solution``
    source: str  # for messages: "valid.json record 12"
    unread: tuple[str, ...] = ()  # fields that look like images and are not read
    solution_field: str | None = None  # the field that the solution was read from; messages for an assistant turn

    @property
    def has_reasoning(self) -> bool:
        """True if the solution says more than the answer."""
        return has_reasoning(self.solution, self.columns)
