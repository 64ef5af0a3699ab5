"""Phi-4's chat format: records to token ids with room for images, and token ids to text.

    <|system|>text<|end|><|user|><|image_1|><|image_2|>question<|end|><|assistant|>answer<|end|>

without newlines. Each <|image_k|> becomes as many copies of the image token as the model has features for image k.
Text from a dataset never becomes a control token: "<|end|>" in a question is encoded as its seven characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from swift.llm.dataset import PLACEHOLDER, Record, image_placeholders
from swift.llm.images.cache import CACHE_BYTES, DECODING_THREADS, ImageCache
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.images.source import ImageSource, image_size
from swift.llm.phi4_names import (
    ASSISTANT,
    AUDIO_TOKEN,
    END,
    END_OF_TEXT,
    IMAGE_TOKEN,
    USER,
    numbered_image,
    turn_token,
)
from swift.llm.template.common import UNFINISHED, TemplateBase, control_pattern, plain_parts
from swift.llm.template.protocol import EncodedPrompt
from swift.utils.errors import UserError

IMAGE_SEPARATOR = ""  # after an image that the template places; published training had "\n", published evaluation ""
PROBE_TEXT = "No pleural effusion, 5 cm. α→β"


class Phi4Template(TemplateBase):
    """The `Template` for one tokenizer and image processor of Phi-4.

    Args:
        image_token_id: the id that the model replaces with image features.
        max_length: most tokens a prompt may have; None for no limit.
        cache_bytes: most memory that tiled images may take between calls.
        decoding_threads: threads that decode announced images; 0 for none.
        rope_switch: length at which the model changes its rotary frequencies (`policy.rope_switch`).
        new_tokens: most tokens of a completion. It must not cross ``rope_switch``, because its first tokens would be
            sampled with other frequencies than they are scored with.
        stop_token_ids: ids that end a completion by the model's generation configuration, besides the template's own.
        response_prefix: text that every prompt ends with and that belongs to the completion.
        window: most tokens that the model can read.

    Raises UserError for a tokenizer that lacks Phi-4's control tokens or does not decode token by token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: DynamicHDImageProcessor,
        image_token_id: int,
        max_length: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        decoding_threads: int = DECODING_THREADS,
        rope_switch: int | None = None,
        new_tokens: int = 0,
        stop_token_ids: Iterable[int] = (),
        response_prefix: str = "",
        window: int | None = None,
    ):
        self.prefilled, self.window = response_prefix, window
        self.rope_switch, self.new_tokens = rope_switch, new_tokens
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.image_token_id, self.max_length = image_token_id, max_length
        self._cache = ImageCache(image_processor, cache_bytes, decoding_threads)
        self._vocabulary = tokenizer.get_added_vocab()
        self._controls = control_pattern(self._vocabulary)
        self._pieces: dict[int, str] = {}
        self._image_tokens: dict[str, int] = {}  # by the key of an image's source
        for name in (USER, ASSISTANT, END):
            self._id(name)
        ends = {self._vocabulary.get(END_OF_TEXT), tokenizer.eos_token_id, self._id(END)}
        self.stop_token_ids: tuple[int, ...] = tuple(sorted({*stop_token_ids, *ends} - {None}))
        padding = tokenizer.pad_token_id
        self.pad_token_id: int = self.stop_token_ids[0] if padding is None else padding
        placeholders = {image_token_id, self._vocabulary.get(IMAGE_TOKEN), self._vocabulary.get(AUDIO_TOKEN)}
        self.banned_token_ids: tuple[int, ...] = tuple(sorted(placeholders - {None}))
        probe = self._encode(PROBE_TEXT)
        if "".join(self.decode_tokens(probe)) != self.decode(probe):
            raise UserError("the tokenizer does not decode token by token; use the checkpoint's byte-level tokenizer")

    def encode_prompt(self, record: Record) -> EncodedPrompt:
        """The record's turns and images, up to and including ``<|assistant|>``. Raises UserError, naming the record,
        for an unreadable image or a prompt over ``max_length``."""
        try:
            images = tuple(self._cache(source) for source in record.images)
            ids, text, order = self._encode_turns(record, [image.num_tokens for image in images])
            self._check_length(len(ids))
            self._check_window(len(ids), self.new_tokens)
        except UserError as error:
            raise UserError(f"{record.source}: {error}") from error
        return EncodedPrompt(torch.tensor(ids), tuple(images[number - 1] for number in order), text)

    def prompt_length(self, record: Record) -> int:
        """See `Template.prompt_length`. An image's tokens are counted once."""
        for source in record.images:
            if source.key not in self._image_tokens:
                self._image_tokens[source.key] = self._count_tokens(source)
        return len(self._encode_turns(record, [self._image_tokens[source.key] for source in record.images])[0])

    def encode_completion(self, text: str) -> list[int]:
        """The ids of an answer, without ``prefilled``, and its ``<|end|>``, to train on."""
        return [*self._encode(self.after_prefilled(text)), self._id(END)]

    def decode_tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """One text per token. Joined they are ``decode(ids)``.

        A character whose bytes are spread over several tokens goes to the last of them. A stop token is "".
        """
        pieces, pending, last = [], [], None
        for position, token in enumerate(map(int, ids)):
            pieces.append("")
            if token in self.stop_token_ids:
                continue
            last = position
            pending.append(token)
            text = self._piece(token) if len(pending) == 1 else self.decode(pending)
            if not text.endswith(UNFINISHED):
                pieces[position] = text
                pending = []
        if pending:
            pieces[last] = self.decode(pending)
        return pieces

    def _encode_turns(self, record: Record, tokens_per_image: list[int]) -> tuple[list[int], str, list[int]]:
        """Ids, text, and the numbers (from 1) of the images in order of appearance."""
        numbers = image_placeholders(record.messages)
        order = numbers or list(range(1, len(record.images) + 1))
        waiting = iter(order)
        ids: list[int] = []
        text: list[str] = []

        def image(number: int) -> None:
            ids.extend([self.image_token_id] * tokens_per_image[number - 1])
            text.append(numbered_image(number))

        def words(content: str) -> None:
            ids.extend(self._encode(content))
            text.append(content)

        def control(name: str) -> None:
            ids.append(self._id(name))
            text.append(name)

        for message in record.messages:
            control(turn_token(message["role"]))
            is_user, content = message["role"] == "user", message["content"]
            for number in waiting if is_user and not numbers else ():
                image(number)
                words(IMAGE_SEPARATOR)
            start = 0
            for match in PLACEHOLDER.finditer(content) if is_user else ():
                words(content[start : match.start()])
                image(next(waiting))
                start = match.end()
            words(content[start:])
            control(END)
        control(ASSISTANT)
        words(self.prefilled)
        return ids, "".join(text), order

    def _encode(self, text: str) -> list[int]:
        """Ids of plain text, without control tokens."""
        parts = plain_parts(text, self._controls)
        return [token for part in parts for token in self.tokenizer.encode(part, add_special_tokens=False)]

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.decode([token])
        return self._pieces[token]

    def _id(self, name: str) -> int:
        if name not in self._vocabulary:
            raise UserError(f"the tokenizer has no token {name}; use the tokenizer of a Phi-4-multimodal checkpoint")
        return self._vocabulary[name]

    def _count_tokens(self, source: ImageSource) -> int:
        try:
            return self.image_processor.count_tokens(*image_size(source))
        except UserError as error:
            raise error if source.name in str(error) else UserError(f"image {source.name}: {error}") from error

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise UserError(
                f"the prompt has {length} tokens, over --max_length {self.max_length}; "
                "raise it, lower --dynamic_hd, or drop the record"
            )
        if self.rope_switch is not None and length <= self.rope_switch < length + self.new_tokens:
            raise UserError(
                f"the prompt has {length} tokens and its completion up to {self.new_tokens}, across the model's rope "
                f"switch at {self.rope_switch}, so it would be sampled and scored with different frequencies; lower "
                "--dynamic_hd or the most tokens a completion may have, or drop the record"
            )
