"""Prompts and completions in the format of a model's own chat template and processor.

The chat template lays out the turns with one image token per image. Each of these is replaced by the text that the
processor gives for the image. Text of a dataset never becomes a control token: it passes through the template with an
invisible mark inside everything that spells one, and the prompt is encoded in parts, cut at the marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from swift.llm.dataset import PLACEHOLDER, Record, image_placeholders
from swift.llm.images.cache import CACHE_BYTES, ImageCache
from swift.llm.images.hf_processor import VisionProcessor
from swift.llm.images.source import image_size
from swift.llm.phi4_names import numbered_image
from swift.llm.template.common import THINK, UNFINISHED, TemplateBase, control_pattern, plain_parts
from swift.llm.template.protocol import EncodedPrompt
from swift.utils.errors import UserError

MARK = "\ue0f4"  # a private-use character, which no text contains on purpose
ANSWER = "ANSWER-OF-THE-ASSISTANT"
TEXT, IMAGE = "text", "image"
_OPENED = re.compile(rf"{THINK}\s*$")  # at the end of a prompt whose chat template begins the reasoning


class ProcessorTemplate(TemplateBase):
    """The `Template` for one model's tokenizer and processor.

    Args:
        stop_token_ids: ids that end a completion by the model's generation configuration. The end of an assistant turn,
            as the chat template writes it, is added.
        banned_token_ids: ids never to be generated, besides the image token.
        max_length: most tokens a prompt may have; None for no limit.
        response_prefix: text that every prompt ends with and that belongs to the completion.
        cache_bytes: most memory that prepared images may take between calls.
        window: most tokens that the model can read.
        new_tokens: most tokens of a completion.

    Raises UserError for a folder without a chat template, or one that cannot lay out a question.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: VisionProcessor,
        stop_token_ids: Iterable[int] = (),
        banned_token_ids: Iterable[int] = (),
        max_length: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        response_prefix: str = "",
        window: int | None = None,
        new_tokens: int = 0,
    ):
        self._prefix, self.window, self.new_tokens = response_prefix, window, new_tokens
        self.tokenizer, self.image_processor, self.max_length = tokenizer, image_processor, max_length
        self._layout = getattr(image_processor.processor, "chat_template", None) or tokenizer.chat_template
        if not self._layout:
            raise UserError(f"{image_processor.folder} has no chat template; add its chat_template.jinja")
        # Processors use the tokenizer, which only one thread at a time may use.
        self._cache = ImageCache(image_processor, cache_bytes, threads=0)
        controls = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens, image_processor.image_token})
        self._controls = control_pattern(filter(None, controls))
        self._front = self._added_in_front()
        self._lead, self._opening, self._end = self._answer_frame()
        self.stop_token_ids: tuple[int, ...] = tuple(sorted({*stop_token_ids, self._end}))
        padding = tokenizer.pad_token_id
        self.pad_token_id: int = self._end if padding is None else padding
        image_token = tokenizer.convert_tokens_to_ids(image_processor.image_token)
        self.banned_token_ids: tuple[int, ...] = tuple(sorted({*banned_token_ids, image_token}))

    def encode_prompt(self, record: Record) -> EncodedPrompt:
        """The record's turns and images, up to the point where the assistant begins. Raises UserError, naming the
        record, for an unreadable image or a prompt over ``max_length``."""
        try:
            images = tuple(self._cache(source) for source in record.images)
            ids, text, order = self._encode_turns(record, [image.text for image in images])
            self._check_length(len(ids))
            self._check_window(len(ids), self.new_tokens)
        except UserError as error:
            raise UserError(f"{record.source}: {error}") from error
        return EncodedPrompt(torch.tensor(ids), tuple(images[number - 1] for number in order), text)

    def prompt_length(self, record: Record) -> int:
        """See `Template.prompt_length`."""
        texts = [self.image_processor.text_for(*image_size(source)) for source in record.images]
        return len(self._encode_turns(record, texts)[0])

    def encode_completion(self, text: str) -> list[int]:
        """The ids of an answer, without ``prefilled``, and the end of its turn, to train on."""
        text = self.after_prefilled(text)
        lead = self._encode(self._lead)
        ids = self._encode(self._lead + self._opening + self._marked(text))
        # tokenizers that put a space before a text's first word must not do so in the middle of a turn
        inside = ids[len(lead) :] if ids[: len(lead)] == lead else self._encode(self._opening + self._marked(text))
        return [*inside, self._end]

    def decode_tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """One text per token. Joined they are ``decode(ids)``.

        Each is the text that the token adds to the text before it, since tokens of some tokenizers read differently
        alone. A character whose bytes are spread over several tokens goes to the last of them.
        """
        ids = list(map(int, ids))
        pieces, done, last = [], "", 0
        for position, token in enumerate(ids):
            text = self.decode(ids[: position + 1])
            complete = text.startswith(done) and not text.endswith(UNFINISHED)
            pieces.append(text[len(done) :] if complete else "")
            done = text if complete else done
            last = last if token in self.stop_token_ids else position
        if pieces:
            pieces[last] += self.decode(ids)[len(done) :]
        return pieces

    def _encode_turns(self, record: Record, image_texts: list[str]) -> tuple[list[int], str, list[int]]:
        """Ids, text, and the numbers (from 1) of the images in order of appearance."""
        order = image_placeholders(record.messages) or list(range(1, len(record.images) + 1))
        laid_out = self._render(self._turns(record), add_generation_prompt=True) + self._marked(self._prefix)
        parts = laid_out.split(self.image_processor.image_token)
        if len(parts) - 1 != len(order):
            raise UserError(
                f"the chat template places {len(parts) - 1} of {len(order)} images; fix the template of the checkpoint"
            )
        expanded = parts[0] + "".join(
            image_texts[number - 1] + part for number, part in zip(order, parts[1:], strict=True)
        )
        has_front = laid_out.startswith(self.tokenizer.bos_token or MARK)
        ids = ([] if has_front else self._front) + self._encode(expanded)
        shown = "".join(part + numbered_image(number) for part, number in zip(parts, order, strict=False)) + parts[-1]
        return ids, shown.replace(MARK, ""), order

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise UserError(
                f"the prompt has {length} tokens, over --max_length {self.max_length}; raise it or drop the record"
            )

    def _turns(self, record: Record) -> list[dict[str, Any]]:
        """The record's messages as chat templates take them: each with a list of texts and images."""
        placed = bool(image_placeholders(record.messages))
        waiting = [] if placed else [{"type": IMAGE}] * len(record.images)
        turns = []
        for message in record.messages:
            content, is_user = message["content"], message["role"] == "user"
            items: list[dict[str, Any]] = waiting if is_user else []
            waiting = [] if is_user else waiting
            start = 0
            for match in PLACEHOLDER.finditer(content) if is_user else ():
                items = [*items, *self._text_item(content[start : match.start()]), {"type": IMAGE}]
                start = match.end()
            items = [*items, *self._text_item(content[start:])] or [_text("")]
            turns.append({"role": message["role"], "content": items})
        return turns

    def _text_item(self, text: str) -> list[dict[str, Any]]:
        return [_text(self._marked(text))] if text else []

    def _marked(self, text: str) -> str:
        """``text`` with a mark after the first character of everything that spells a control token."""
        return MARK.join(plain_parts(text.replace(MARK, ""), self._controls))

    def _encode(self, text: str) -> list[int]:
        return [
            token
            for part in text.split(MARK)
            if part
            for token in self.tokenizer.encode(part, add_special_tokens=False)
        ]

    def _render(self, turns: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                turns, chat_template=self._layout, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise UserError(f"the checkpoint's chat template refuses the turns ({error})") from error

    def _added_in_front(self) -> list[int]:
        """The ids that the tokenizer itself puts before a text: for some models the begin token. For others the chat
        template writes it."""
        with_front, bare = (self.tokenizer.encode("a", add_special_tokens=added) for added in (True, False))
        return next((with_front[:start] for start, token in enumerate(with_front) if token == bare[0]), [])

    def _answer_frame(self) -> tuple[str, str, int]:
        """Three parts of the chat template's frame around an answer.

        The end of a prompt from its last control token on. The text between the prompt and an answer. The token that
        ends an answer: the first control token after it, or the tokenizer's end of text.
        """
        question = [{"role": "user", "content": [_text("Question")]}]
        prompt = self._render(question, add_generation_prompt=True)
        opened = _OPENED.search(prompt)
        self.prefilled = (opened[0] if opened else "") + self._prefix
        whole = self._render(
            [*question, {"role": "assistant", "content": [_text(ANSWER)]}], add_generation_prompt=False
        )
        before, present, after = whole.partition(ANSWER)
        if not present:
            raise UserError(
                f"{self.image_processor.folder}: the chat template leaves out the assistant's answer; fix the template"
            )
        opening = before.removeprefix(prompt) if before.startswith(prompt) else ""
        match = self._controls.search(after)
        ends = [self.tokenizer.eos_token_id]
        if match:
            ends.insert(0, self.tokenizer.encode(after[match.start() :], add_special_tokens=False)[0])
        end = next((token for token in ends if token is not None), None)
        if end is None:
            raise UserError(
                f"{self.image_processor.folder}: neither chat template nor tokenizer names an end of answers; add one"
            )
        last = max((match.start() for match in self._controls.finditer(prompt)), default=0)
        return prompt[last:] + self._marked(self._prefix), opening, end


def _text(text: str) -> dict[str, Any]:
    return {"type": TEXT, TEXT: text}
