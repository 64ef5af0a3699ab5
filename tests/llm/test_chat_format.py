"""Phi-4's chat format, token for token. Every sequence below is written by hand.

The tokenizer knows bytes only, so each letter is a token of its own. It writes a blank as Ġ, a line feed as Ċ, and the
two bytes of é as Ã ©.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from swift.llm.dataset import Record, load_records
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.images.source import ImageSource
from swift.llm.template import phi4 as template_module
from swift.llm.template.phi4 import Phi4Template

CONTROLS = ["<|endoftext|>", "<|endoftext10|>", "<|endoftext11|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
IMAGE = "<|endoftext10|>"
# with crops of 112 pixels (see test_tiling.py), 100 x 50 takes 31 tokens, 112 x 112 takes 4*4 + 4 + 1 + 4*4 + 4 = 41
WIDE, SQUARE = [IMAGE] * 31, [IMAGE] * 41


def letters_tokenizer() -> PreTrainedTokenizerFast:
    names = [*CONTROLS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_tokens(CONTROLS, special_tokens=True)
    return fast


TOKENIZER = letters_tokenizer()


def template() -> Phi4Template:
    return Phi4Template(TOKENIZER, DynamicHDImageProcessor(112), CONTROLS.index(IMAGE))


@pytest.fixture
def images(tmp_path) -> tuple[ImageSource, ImageSource]:
    """A wide image and a square one."""
    for name, size in (("wide", (100, 50)), ("square", (112, 112))):
        Image.new("L", size, 90).save(tmp_path / f"{name}.png")
    return tuple(ImageSource.from_path(tmp_path / f"{name}.png") for name in ("wide", "square"))


def tokens(prompt) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(prompt.input_ids.tolist())


PROMPTS = {
    "a question": (0, [("user", "Hi?")], ["<|user|>", "H", "i", "?", "<|end|>", "<|assistant|>"]),
    "an image first": (
        1,
        [("user", "Hi?")],
        ["<|user|>", *WIDE, "H", "i", "?", "<|end|>", "<|assistant|>"],
    ),
    "two images first": (
        2,
        [("user", "Hi?")],
        ["<|user|>", *WIDE, *SQUARE, "H", "i", "?", "<|end|>", "<|assistant|>"],
    ),
    "a system prompt": (
        1,
        [("system", "Be."), ("user", "Hi?")],
        ["<|system|>", "B", "e", ".", "<|end|>", "<|user|>", *WIDE, "H", "i", "?", "<|end|>", "<|assistant|>"],
    ),
    "an image in the text": (
        1,
        [("user", "In <image>?")],
        ["<|user|>", "I", "n", "Ġ", *WIDE, "?", "<|end|>", "<|assistant|>"],
    ),
    "two images in the text": (
        2,
        [("user", "<image>a<image>b")],
        ["<|user|>", *WIDE, "a", *SQUARE, "b", "<|end|>", "<|assistant|>"],
    ),
    "two images in the text, the second first": (
        2,
        [("user", "<image_2>a<image_1>b")],
        ["<|user|>", *SQUARE, "a", *WIDE, "b", "<|end|>", "<|assistant|>"],
    ),
    "Phi's own spelling, and a line feed of the data set": (
        2,
        [("user", "<|image_1|><|image_2|>\nHi")],
        ["<|user|>", *WIDE, *SQUARE, "Ċ", "H", "i", "<|end|>", "<|assistant|>"],
    ),
    "an image at the very end": (
        1,
        [("user", "Hi<image>")],
        ["<|user|>", "H", "i", *WIDE, "<|end|>", "<|assistant|>"],
    ),
    "turns, images in the first of the user": (
        2,
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        [
            *("<|user|>", *WIDE, *SQUARE, "a", "<|end|>", "<|assistant|>", "b", "<|end|>", "<|user|>", "c"),
            *("<|end|>", "<|assistant|>"),
        ],
    ),
    "turns, an image in each of the user": (
        2,
        [("user", "a<image>"), ("assistant", "b"), ("user", "<image>c")],
        [
            *("<|user|>", "a", *WIDE, "<|end|>", "<|assistant|>", "b", "<|end|>", "<|user|>", *SQUARE, "c"),
            *("<|end|>", "<|assistant|>"),
        ],
    ),
    "a system prompt and turns, the image in the last": (
        1,
        [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "<image>")],
        [
            *("<|system|>", "s", "<|end|>", "<|user|>", "a", "<|end|>", "<|assistant|>", "b", "<|end|>"),
            *("<|user|>", *WIDE, "<|end|>", "<|assistant|>"),
        ],
    ),
    "a placeholder of the system or the assistant is text": (
        1,
        [("system", "<image>"), ("user", "a"), ("assistant", "<image_1>"), ("user", "b")],
        [
            *("<|system|>", "<", "i", "m", "a", "g", "e", ">", "<|end|>", "<|user|>", *WIDE, "a", "<|end|>"),
            *("<|assistant|>", "<", "i", "m", "a", "g", "e", "_", "1", ">", "<|end|>"),
            *("<|user|>", "b", "<|end|>", "<|assistant|>"),
        ],
    ),
    "control words of a question are text": (
        0,
        [("user", "<|end|>")],
        ["<|user|>", "<", "|", "e", "n", "d", "|", ">", "<|end|>", "<|assistant|>"],
    ),
    "the image token of a question is text": (
        1,
        [("user", "<|endoftext10|>")],
        ["<|user|>", *WIDE, *"<|endoftext10|>", "<|end|>", "<|assistant|>"],
    ),
    "blanks stay as they are": (
        0,
        [("user", " a  b\n")],
        ["<|user|>", "Ġ", "a", "Ġ", "Ġ", "b", "Ċ", "<|end|>", "<|assistant|>"],
    ),
    "other alphabets": (0, [("user", "é")], ["<|user|>", "Ã", "©", "<|end|>", "<|assistant|>"]),
    "nothing but an image": (1, [("user", "")], ["<|user|>", *WIDE, "<|end|>", "<|assistant|>"]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_token_for_token(name, images):
    count, turns, expected = PROMPTS[name]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    record = Record(images[:count], messages, None, {}, "r")
    prompt = template().encode_prompt(record)
    assert tokens(prompt) == expected
    assert sum(image.num_tokens for image in prompt.images) == expected.count(IMAGE)
    assert [tokens(prompt) for prompt in template().encode_prompts([record, record])] == [expected] * 2


def test_completions_token_for_token():
    ids = template().encode_completion("no <|end|>")
    assert TOKENIZER.convert_ids_to_tokens(ids) == ["n", "o", "Ġ", "<", "|", "e", "n", "d", "|", ">", "<|end|>"]


def test_end_tokens_stop_and_placeholders_are_banned():
    chat = template()
    assert TOKENIZER.convert_ids_to_tokens(chat.stop_token_ids) == ["<|endoftext|>", "<|end|>"]
    assert TOKENIZER.convert_ids_to_tokens(chat.banned_token_ids) == ["<|endoftext10|>", "<|endoftext11|>"]


def test_the_text_after_an_image_that_the_template_places_is_one_constant(images, monkeypatch):
    """It is empty, as in the published evaluation. The published training had a line feed, which gives these tokens."""
    assert template_module.IMAGE_SEPARATOR == ""
    monkeypatch.setattr(template_module, "IMAGE_SEPARATOR", "\n")
    record = Record(images, ({"role": "user", "content": "Hi"},), None, {}, "r")
    assert tokens(template().encode_prompt(record)) == [
        *("<|user|>", *WIDE, "Ċ", *SQUARE, "Ċ", "H", "i", "<|end|>", "<|assistant|>")
    ]


TURN = {"role": "user", "content": "Effusion?"}
ANSWER = "<think>t</think><answer>yes</answer>"
EXPECTED = ["<|user|>", *WIDE, *"Effusion?", "<|end|>", "<|assistant|>"]


def forms(data: bytes) -> dict[str, dict]:
    """One question in every form that a data set may have."""
    bare = base64.b64encode(data).decode()
    readme = {"messages": [TURN, {"role": "assistant", "content": ANSWER}], "question": "Effusion?", "answer": "yes"}
    sampled = {"messages": [TURN], "solution": ANSWER, "idx": 7, "subject_id": 10, "study_id": 50, "answer": ["yes"]}
    return {
        "README, path": readme | {"image": "wide.png"},
        "README, base64": readme | {"image": bare},
        "README, base64 in lines": readme | {"image": "\n".join(bare[i : i + 76] for i in range(0, len(bare), 76))},
        "README, data URI": readme | {"image": f"data:image/png;base64,{bare}"},
        "README, list": readme | {"image": ["wide.png"]},
        "sampling tool": sampled | {"images": ["wide.png"]},
        "sampling tool, base64": sampled | {"images": [bare]},
        "sampling tool, placeholder": sampled
        | {"images": ["wide.png"], "messages": [TURN | {"content": "<image>Effusion?"}]},
        "evaluation": {"question": "Effusion?", "explanation": ANSWER, "answer": ["yes"], "image_ids": ["wide"]},
    }


def test_every_form_of_a_record_is_the_same_prompt(images):
    folder = images[0].path.parent
    (folder / "images").mkdir()
    (folder / "images" / "wide.png").write_bytes(images[0].path.read_bytes())
    named = forms(images[0].path.read_bytes())
    (folder / "forms.json").write_text(json.dumps(list(named.values())))
    records = load_records([Path(folder / "forms.json")], require_solution=True)
    chat = template()
    first, *others = chat.encode_prompts(records)
    assert tokens(first) == EXPECTED
    for name, record, prompt in zip(named, records, [first, *others], strict=True):
        assert tokens(prompt) == EXPECTED, name
        assert torch.equal(prompt.images[0].pixel_values, first.images[0].pixel_values), name
        assert record.solution == ANSWER, name
        assert not {"image", "images"} & record.columns.keys(), name
    assert records[-4].columns["subject_id"] == 10
