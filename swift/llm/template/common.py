"""Shared parts of both templates: many prompts at a time, decoding, and text that must not become control tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

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
    window: int | None = None
    new_tokens: int = 0
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

    def check_prompts(self, records: Iterable[Record], answer_of: Callable[[Record], str | None] | None = None) -> None:
        """See `Template.check_prompts`. Reads image headers only."""
        problems = []
        for record in records:
            try:
                self._refuse_endless(record)
                length = self.prompt_length(record)
                self._check_length(length)
                text = None if answer_of is None else answer_of(record)
                self._check_window(length, self.new_tokens if text is None else self._count(text, length))
                self._note_length(length)
            except UserError as error:
                problems.append(f"{record.source}: {error}")
        raise_problems(problems)

    def _refuse_endless(self, record: Record) -> None:
        """Raise UserError for a text that is too long whatever its tokens are, since counting them would take long."""
        least = sum(len(message["content"]) for message in record.messages) // self._longest_token
        if self.window is not None and least > self.window:
            raise UserError(self._beyond(f"the prompt has at least {least} tokens"))

    def _check_window(self, length: int, following: int) -> None:
        """Raise UserError if a prompt of ``length`` tokens and ``following`` ones are more than the model can read."""
        if self.window is not None and length + following > self.window:
            answer = f" and its answer up to {following}" if following else ""
            raise UserError(self._beyond(f"the prompt has {length} tokens{answer}"))

    def _beyond(self, what: str) -> str:
        return (
            f"{what}, over the {self.window} that the model can read; shorten it (in training --max_length and "
            "--truncation_strategy do), lower --dynamic_hd, or pass --on_error skip"
        )

    def _count(self, text: str, length: int) -> int:
        """Tokens of an answer to a prompt of ``length`` tokens. A text that fits whatever its tokens are is not
        encoded, and one is returned for each of its bytes."""
        most = len(text.encode("utf-8", "surrogatepass")) + 8  # and the end of the turn
        endless = self.window is not None and len(text) // self._longest_token > self.window
        fits = self.window is None or length + most <= self.window
        return max(self.new_tokens, most if fits or endless else len(self.encode_completion(text)))

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.tokenizer.get_vocab()), default=1)

    def encode_completion(self, text: str) -> list[int]:
        """See `Template.encode_completion`."""
        raise NotImplementedError

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
