"""The interface of templates: records in, token ids out, and back to text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from swift.llm.dataset import Record
from swift.llm.images.protocol import ImageProcessor, Picture


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt, as the model takes it."""

    input_ids: Tensor  # [P] long, each image as its run of image tokens
    images: tuple[Picture, ...]  # in the order of their runs
    text: str  # the prompt with <|image_k|> for images, for logs


class Template(Protocol):
    """Encodes prompts and decodes completions in one model's chat format."""

    tokenizer: PreTrainedTokenizerBase
    image_processor: ImageProcessor
    stop_token_ids: tuple[int, ...]  # end a completion
    banned_token_ids: tuple[int, ...]  # never generated
    pad_token_id: int
    prompt_lengths: tuple[int, int] | None  # tokens of the shortest and longest prompt that check_prompts has seen
    window: int | None  # most tokens that the model can read; None if its configuration does not say
    new_tokens: int  # most tokens that will be generated after a prompt
    prefilled: str  # text at the end of every prompt that belongs to the completion, such as an opening <think>

    def encode_prompt(self, record: Record) -> EncodedPrompt:
        """The record's turns and images, up to the point where the assistant begins. Raises UserError, naming the
        record, for an unreadable image or a prompt that is too long."""

    def encode_prompts(self, records: Sequence[Record]) -> list[EncodedPrompt]:
        """The prompt of each record, with their images decoded in parallel. Raises UserError as ``encode_prompt``."""

    def prefetch(self, records: Iterable[Record]) -> None:
        """Announce the records that will be encoded next, so that their images are decoded meanwhile."""

    def prompt_length(self, record: Record) -> int:
        """Tokens of the record's prompt, images included, from image headers alone. Raises UserError for an image that
        cannot be prepared."""

    def check_prompts(self, records: Iterable[Record], answer_of: Callable[[Record], str | None] | None = None) -> None:
        """Raise one UserError for all records whose prompt is too long or whose image cannot be prepared.

        The answer that follows a prompt has the most tokens that may be generated, or is the text that ``answer_of``
        gives for the record.
        """

    def encode_completion(self, text: str) -> list[int]:
        """The ids of an answer, without ``prefilled``, and the end of its turn, to train on."""

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of a completion. Stop tokens are left out, and every other token is shown."""

    def decode_tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """One text per token. Joined they are ``decode(ids)``."""
