"""Shared parts of both templates: many prompts at a time, decoding, and text that must not become control tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from swift.llm.dataset import Record, raise_problems
from swift.llm.images.cache import ImageCache
from swift.llm.images.source import ImageSource
from swift.llm.template.protocol import EncodedPrompt
from swift.utils.errors import UserError

THINK, THINK_END = "<think>", "</think>"
UNFINISHED = "\ufffd"  # what decoding gives for the first bytes of a character


class TemplateBase:
    """Base of templates that encode one prompt (``encode_prompt``) and hold their images in ``_cache``."""

    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: tuple[int, ...]
    prompt_lengths: tuple[int, int] | None = None
    prefilled: str = ""
    _cache: ImageCache

    def after_prefilled(self, text: str) -> str:
        """The part of a completion that follows ``prefilled``, which a solution may begin with or leave out.

        A text without reasoning first closes the reasoning that the prompt has opened.
        """
        opening = self.prefilled.strip()
        if not opening:
            return text
        beginning = text.lstrip()
        if beginning.startswith(self.prefilled):
            return beginning.removeprefix(self.prefilled)
        if beginning.startswith(opening):
            return beginning.removeprefix(opening).lstrip("\n")
        return f"{THINK_END}\n\n{text}" if opening.endswith(THINK) and THINK_END not in text else text

    def encode_prompt(self, record: Record) -> EncodedPrompt:
        """See `Template.encode_prompt`."""
        raise NotImplementedError

    def _note_length(self, length: int) -> None:
        """Take a prompt of ``length`` tokens into ``prompt_lengths``."""
        shortest, longest = self.prompt_lengths or (length, length)
        self.prompt_lengths = min(shortest, length), max(longest, length)

    def encode_prompts(self, records: Sequence[Record]) -> list[EncodedPrompt]:
        """The prompt of each record, with their images decoded in parallel. Raises UserError as ``encode_prompt``."""
        self._cache.prefetch(_images_of(records), first=True)
        return [self.encode_prompt(record) for record in records]

    def check_prompts(self, records: Iterable[Record]) -> None:
        """See `Template.check_prompts`. Reads image headers only."""
        problems = []
        for record in records:
            try:
                length = self.prompt_length(record)
                self._check_length(length)
                self._note_length(length)
            except UserError as error:
                problems.append(f"{record.source}: {error}")
        raise_problems(problems)

    def prompt_length(self, record: Record) -> int:
        """See `Template.prompt_length`."""
        raise NotImplementedError

    def _check_length(self, length: int) -> None:
        """Raise UserError for a prompt of ``length`` tokens that is too long."""
        raise NotImplementedError

    def prefetch(self, records: Iterable[Record]) -> None:
        """Announce the records that will be encoded next, in order. They replace those announced before.

        Worker threads decode their images meanwhile, as far as the cache has room. Returns at once and changes no
        result.
        """
        self._cache.prefetch(_images_of(records))

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of a completion. Stop tokens are left out, and every other token is shown."""
        shown = [token for token in map(int, ids) if token not in self.stop_token_ids]
        return self.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def control_pattern(controls: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches, with length 0, before each of ``controls``, so that overlapping ones are all found."""
    return re.compile(f"(?={'|'.join(map(re.escape, controls))})")


def plain_parts(text: str, controls: re.Pattern[str]) -> list[str]:
    """``text`` cut after the first character of everything that spells a control token.

    Encoded one by one the parts stay plain text: "<|end|>" in a question becomes characters, not a control token.
    """
    cuts = [match.start() + 1 for match in controls.finditer(text)]
    bounds = zip([0, *cuts], [*cuts, len(text)], strict=True)
    return [text[start:end] for start, end in bounds if end > start]


def _images_of(records: Iterable[Record]) -> list[ImageSource]:
    return [source for record in records for source in record.images]
