"""Prompts by flags: a system turn, long prompts cut or left out, the most pixels of an image, text that completions
begin with, and the layers that a new adapter takes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from swift.cli.common import read_data, read_policy
from swift.llm.arguments import parse_rlhf_args
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import Record
from swift.llm.images.source import ImageSource, View, image_size, open_image
from swift.llm.prompting import adapt_record, max_pixels_of, system_text
from swift.llm.template.choose import template_for
from swift.llm.template.truncation import fit_prompts
from swift.llm.trainable import decoder_linears
from swift.utils.errors import UserError
from tests.support.builders import random_image, rlhf_command
from tests.support.tiny_models import write_qwen

QUESTION = "Is there a left pleural effusion in the lower zone of this film?"


def record(content: str = QUESTION, images: tuple[ImageSource, ...] = (), *before: dict[str, str]) -> Record:
    return Record(images, (*before, {"role": "user", "content": content}), "yes", {}, "file.json record 0")


@pytest.fixture(scope="module")
def template(world):
    return template_for(load_policy(world / "policy"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen") / "model"
    write_qwen(folder)
    return folder


@pytest.fixture
def image(tmp_path) -> ImageSource:
    random_image(np.random.default_rng(0), (84, 56)).save(tmp_path / "film.png")
    return ImageSource.from_path(tmp_path / "film.png")


# System


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("You read films.", "You read films."),
        ("prompt.txt", "From a file."),
        ("a\nb", "a\nb"),
    ],
)
def test_the_system_turn_is_a_text_or_a_file(tmp_path, monkeypatch, value, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_text("From a file.\n")
    assert system_text(value) == expected


def test_a_missing_system_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--system .*absent.txt: there is no such file"):
        system_text(str(tmp_path / "absent.txt"))


def test_a_record_with_a_system_turn_keeps_it():
    own = {"role": "system", "content": "Own."}
    assert adapt_record(record("Q", (), own), "Ours.", View()).messages[0] == own
    assert adapt_record(record("Q"), "Ours.", View()).messages[0] == {"role": "system", "content": "Ours."}
    assert adapt_record(record("Q"), None, View()).messages == record("Q").messages


def test_the_system_turn_reaches_the_prompt_of_a_run(world, tmp_path):
    model, data, training = parse_rlhf_args(rlhf_command(world, tmp_path, system="You read films."))
    records, _ = read_data(data, training.seed, require_solution=True)
    _, template = read_policy(model, data)
    assert "<|system|>You read films.<|end|><|user|>" in template.encode_prompt(records[0]).text


# Length


def test_without_a_strategy_long_prompts_stay_as_they_are(template):
    records = [record(), record("Edema?")]
    assert fit_prompts(template, records, None, 1) == records
    assert fit_prompts(template, records, "delete", None) == records


def test_delete_leaves_long_prompts_out(template):
    limit = template.prompt_length(record("Edema?"))
    assert fit_prompts(template, [record(), record("Edema?")], "delete", limit) == [record("Edema?")]


def test_a_data_set_without_a_fitting_prompt_is_an_error(template):
    with pytest.raises(UserError, match="all 1 prompts are over --max_length 1"):
        fit_prompts(template, [record()], "delete", 1)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("strategy", ["left", "right"])
def test_the_text_is_cut_at_the_named_end_and_images_stay(template, qwen, image, strategy, other):
    template = template_for(load_policy(qwen)) if other else template
    long = record(f"<image>{QUESTION}", (image,))
    bare = template.prompt_length(record("<image>", (image,)))
    for room in (1, 3, 8):
        (short,) = fit_prompts(template, [long], strategy, bare + room)
        assert template.prompt_length(short) <= bare + room
        words = short.messages[0]["content"].removeprefix("<image>")
        assert words
        assert QUESTION.endswith(words) if strategy == "left" else QUESTION.startswith(words)
        assert len(template.encode_prompt(short).images) == 1


def test_turns_are_cut_in_their_order(template):
    system = {"role": "system", "content": "A long text before the question."}
    long = record("Edema?", (), system)
    limit = template.prompt_length(long) - 4
    (short,) = fit_prompts(template, [long], "left", limit)
    assert short.messages[1]["content"] == "Edema?"
    assert len(short.messages[0]["content"]) < len(system["content"])


def test_a_prompt_that_is_too_long_without_text_is_refused_later(template, image):
    long = record(QUESTION, (image,))
    (short,) = fit_prompts(template, [long], "left", 3)
    assert short.messages[0]["content"] == ""


# Pixels


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [((84, 56), None, (84, 56)), ((84, 56), 84 * 56, (84, 56)), ((84, 56), 84 * 14, (42, 28)), ((84, 56), 1, (1, 1))],
)
def test_an_image_over_the_limit_is_scaled_down_with_its_aspect(tmp_path, size, limit, expected):
    Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a.png")
    source = ImageSource("a", tmp_path / "a.png", view=View(limit))
    assert image_size(source) == open_image(source).size == expected


def test_fewer_pixels_are_fewer_tokens(template, qwen, tmp_path):
    random_image(np.random.default_rng(0), (224, 168)).save(tmp_path / "large.png")
    image = ImageSource.from_path(tmp_path / "large.png")
    small = adapt_record(record(images=(image,)), None, View(28 * 28))
    for chosen in (template, template_for(load_policy(qwen))):
        counts = [chosen.prompt_length(each) for each in (record(images=(image,)), small)]
        assert counts[1] < counts[0]
        assert len(chosen.encode_prompt(small).input_ids) == counts[1]


@pytest.mark.parametrize(
    ("flag", "variable", "expected"), [(None, None, None), (7, "9", 7), (None, "9", 9), (7, None, 7)]
)
def test_the_flag_comes_before_the_variable(monkeypatch, flag, variable, expected):
    monkeypatch.setenv("MAX_PIXELS", variable or "")
    assert max_pixels_of(flag) == expected


def test_a_variable_that_is_not_a_number_is_refused(monkeypatch):
    monkeypatch.setenv("MAX_PIXELS", "many")
    with pytest.raises(UserError, match="MAX_PIXELS=many"):
        max_pixels_of(None)


# Text that completions begin with

SOLUTION = "<think>\nA small effusion.</think><answer>yes</answer>"


@pytest.fixture(params=["prefix", "chat template", "phi4"])
def opening(request, world, qwen, tmp_path):
    """Templates whose prompts end with an opening <think>."""
    if request.param == "phi4":
        return template_for(load_policy(world / "policy"), response_prefix="<think>\n")
    policy = load_policy(qwen)
    if request.param == "prefix":
        return template_for(policy, response_prefix="<think>\n")
    layout = policy.image_processor.processor.chat_template or policy.tokenizer.chat_template
    opened = layout.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
    assert opened != layout
    policy.image_processor.processor.chat_template = policy.tokenizer.chat_template = opened
    return template_for(policy)


def test_the_prompt_ends_with_the_text_that_completions_begin_with(opening):
    assert opening.prefilled == "<think>\n"
    prompt = opening.encode_prompt(record())
    assert prompt.text.endswith("<think>\n")
    assert opening.decode(prompt.input_ids).endswith("<think>\n")


@pytest.mark.parametrize(
    ("solution", "rest"),
    [
        (SOLUTION, "A small effusion.</think><answer>yes</answer>"),
        ("<think>A small effusion.</think>", "A small effusion.</think>"),
        ("A small effusion.</think>", "A small effusion.</think>"),
        ("<answer>yes</answer>", "</think>\n\n<answer>yes</answer>"),
    ],
)
def test_a_solution_is_trained_without_the_opening(opening, solution, rest):
    assert opening.decode(opening.encode_completion(solution)) == rest


def test_prompt_and_solution_together_are_the_conversation(opening):
    ids = [*opening.encode_prompt(record()).input_ids.tolist(), *opening.encode_completion(SOLUTION)]
    assert opening.decode(ids).endswith(SOLUTION)


def test_other_templates_begin_with_nothing(template):
    assert template.prefilled == ""
    assert template.decode(template.encode_completion(SOLUTION)) == SOLUTION


# Layers of a new adapter


def test_target_modules_choose_layers_of_the_decoder_by_name(qwen):
    model = load_policy(qwen).model
    every, two = decoder_linears(model), decoder_linears(model, ["q_proj", "mlp.down_proj"])
    assert "v_proj" in every
    assert two.endswith(r"(mlp\.down_proj|self_attn\.q_proj)")
    with pytest.raises(UserError, match="--target_modules c_attn: no such layer in the decoder; it has down_proj"):
        decoder_linears(model, ["c_attn"])
