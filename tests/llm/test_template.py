"""The chat format: exact ids, images in their places, no control tokens from data, tokens that join to the text."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from swift.llm.dataset import Record
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.images.source import ImageSource
from swift.llm.template.phi4 import Phi4Template
from swift.utils.errors import UserError

CONTROLS = ["<|endoftext|>", "<|endoftext10|>", "<|endoftext11|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
STOP, IMAGE, AUDIO, SYSTEM, USER, ASSISTANT, END = range(7)
CORPUS = ["Is there any pleural effusion in the left lung?", "<think>No opacity.</think><answer>no</answer>"]


def byte_level_tokenizer(controls: list[str] = CONTROLS) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, special_tokens=controls)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZER = byte_level_tokenizer()


def template(**options) -> Phi4Template:
    return Phi4Template(TOKENIZER, DynamicHDImageProcessor(112), IMAGE, **options)


def words(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def record_of(content: str, images: tuple[ImageSource, ...] = (), **more) -> Record:
    return Record(images, ({"role": "user", "content": content},), None, {}, "x.json record 4", **more)


@pytest.fixture
def pictures(tmp_path) -> tuple[ImageSource, ImageSource]:
    """100 x 50 (31 tokens, see test_image_processor) and 112 x 112 (4*4 + 4 + 1 + 4*4 + 4 = 41 tokens)."""
    for name, size in (("small", (100, 50)), ("square", (112, 112))):
        Image.new("L", size, 90).save(tmp_path / f"{name}.png")
    return tuple(ImageSource.from_path(tmp_path / f"{name}.png") for name in ("small", "square"))


def test_prompt_is_user_images_question_end_assistant(pictures):
    prompt = template().encode_prompt(record_of("Effusion?", pictures))
    expected = [USER, *[IMAGE] * (31 + 41), *words("Effusion?"), END, ASSISTANT]
    assert prompt.input_ids.tolist() == expected
    assert prompt.input_ids.dtype == torch.long
    assert prompt.text == "<|user|><|image_1|><|image_2|>Effusion?<|end|><|assistant|>"
    assert [image.num_tokens for image in prompt.images] == [31, 41]


def test_system_and_earlier_turns_keep_their_order_and_images_stand_in_the_first_user_turn(pictures):
    turns = tuple({"role": role, "content": role[0]} for role in ("system", "user", "assistant", "user"))
    prompt = template().encode_prompt(Record(pictures[:1], turns, None, {}, "r"))
    assert (
        prompt.text == "<|system|>s<|end|><|user|><|image_1|>u<|end|><|assistant|>a<|end|><|user|>u<|end|><|assistant|>"
    )
    expected = [SYSTEM, *words("s"), END, USER, *[IMAGE] * 31, *words("u"), END]
    assert prompt.input_ids.tolist() == [*expected, ASSISTANT, *words("a"), END, USER, *words("u"), END, ASSISTANT]


@pytest.mark.parametrize(
    ("content", "order"),
    [
        ("Then <image> and now <image>.", [31, 41]),
        ("Then <image_1> and now <image_2>.", [31, 41]),
        ("Then <|image_2|> and now <image_1>.", [41, 31]),
    ],
)
def test_placeholders_put_each_image_where_they_stand(pictures, content, order):
    prompt = template().encode_prompt(record_of(content, pictures))
    first, second = order
    middle = [*words("Then "), *[IMAGE] * first, *words(" and now "), *[IMAGE] * second, *words(".")]
    assert prompt.input_ids.tolist() == [USER, *middle, END, ASSISTANT]
    assert [image.num_tokens for image in prompt.images] == order


@pytest.mark.parametrize("control", [*CONTROLS, "<|end<|end|>", "<|end|><|end|>"])
def test_text_of_a_question_never_becomes_a_control_token(control):
    content = f"Is{control}it?"
    prompt = template().encode_prompt(record_of(content))
    inner = prompt.input_ids.tolist()[1:-2]
    assert min(inner) > END
    assert TOKENIZER.decode(inner) == content


def test_a_control_token_not_marked_special_is_not_let_in_either():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["<|tool|>", "<<|tool|>"])
    encoded = Phi4Template(tokenizer, DynamicHDImageProcessor(112), IMAGE).encode_completion("a<<|tool|>")
    assert not set(tokenizer.convert_tokens_to_ids(["<|tool|>", "<<|tool|>"])) & set(encoded)


def test_completion_ends_once_whatever_its_text():
    assert template().encode_completion("no<|end|>").count(END) == 1
    assert template().encode_completion("no") == [*words("no"), END]


def test_stop_ban_and_padding_tokens_come_from_the_tokenizer():
    chat = template()
    assert chat.stop_token_ids == (STOP, END)
    more = Phi4Template(chat.tokenizer, chat.image_processor, chat.image_token_id, stop_token_ids=[END, 77])
    assert more.stop_token_ids == tuple(sorted((STOP, END, 77)))
    assert chat.banned_token_ids == (IMAGE, AUDIO)
    assert chat.pad_token_id == STOP


def test_a_character_of_several_tokens_goes_to_the_last_of_them():
    # in UTF-8 "≥" is three bytes and "😀" four, and the tokenizer knows single bytes only
    ids = words("a≥😀b")
    assert len(ids) == 9
    assert template().decode_tokens(ids) == ["a", "", "", "≥", "", "", "", "😀", "b"]


def test_an_unfinished_character_is_shown_at_the_last_token_before_the_stop():
    ids = [*words("a≥")[:-1], END]
    assert template().decode_tokens(ids) == ["a", "", "\ufffd", ""]
    assert template().decode(ids) == "a\ufffd"


def test_stop_tokens_are_empty_and_other_control_tokens_are_shown():
    ids = [*words("no"), USER, END]
    assert template().decode_tokens(ids)[-2:] == ["<|user|>", ""]
    assert template().decode(torch.tensor(ids)) == "no<|user|>"


def test_tokens_join_to_the_text_for_any_ids():
    chat, draw = template(), random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(len(TOKENIZER)) for _ in range(draw.randrange(30))]
        pieces = chat.decode_tokens(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == chat.decode(ids)


def test_a_prompt_over_max_length_is_refused_by_name_before_and_while_encoding(pictures):
    record = record_of("?", pictures[:1])  # user + 31 + 1 + end + assistant = 35
    template(max_length=35).check_prompts([record])
    assert len(template(max_length=35).encode_prompt(record).input_ids) == 35
    for refused in (lambda chat: chat.check_prompts([record]), lambda chat: chat.encode_prompt(record)):
        with pytest.raises(UserError, match=r"x\.json record 4: the prompt has 35 tokens, over --max_length 34"):
            refused(template(max_length=34))


def test_the_check_counts_tokens_of_a_turned_image_as_encoding_does(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (200, 60)).save(tmp_path / "turned.png", exif=exif)
    record = record_of("?", (ImageSource.from_path(tmp_path / "turned.png"),))
    length = len(template().encode_prompt(record).input_ids)
    template(max_length=length).check_prompts([record])
    with pytest.raises(UserError, match=f"has {length} tokens"):
        template(max_length=length - 1).check_prompts([record])


def test_the_check_finds_every_image_that_cannot_be_tiled(tmp_path, pictures):
    Image.new("L", (1000, 2)).save(tmp_path / "sliver.png")
    sliver = record_of("?", (ImageSource.from_path(tmp_path / "sliver.png"),))
    with pytest.raises(UserError, match=r"record 4: image .*sliver\.png: .*too narrow.*\(and 1 more\)"):
        template().check_prompts([sliver, record_of("?", pictures), sliver])


def test_an_image_that_disappears_is_refused_with_record_and_path(tmp_path):
    gone = ImageSource.from_path(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"x\.json record 4: image .*gone\.png is missing"):
        template().encode_prompt(record_of("?", (gone,)))


def test_questions_about_one_study_share_its_tiling(pictures):
    chat = template()
    first, second = (chat.encode_prompt(record_of(text, pictures)) for text in ("a", "b"))
    Path(pictures[0].path).unlink()
    assert chat.encode_prompt(record_of("c", pictures)).images[0] is first.images[0] is second.images[0]


def test_a_tokenizer_without_the_chat_tokens_is_refused_by_their_name():
    with pytest.raises(UserError, match=r"no token <\|assistant\|>"):
        Phi4Template(
            byte_level_tokenizer([name for name in CONTROLS if "assist" not in name]), DynamicHDImageProcessor(), 1
        )


def test_a_tokenizer_that_joins_words_with_blanks_is_refused():
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*CONTROLS, "[UNK]"])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_tokens(CONTROLS, special_tokens=True)
    with pytest.raises(UserError, match="byte-level"):
        Phi4Template(fast, DynamicHDImageProcessor(), 1)
