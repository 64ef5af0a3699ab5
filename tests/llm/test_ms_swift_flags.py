"""Flags of ms-swift 3.3: each is honored, warned of or refused as docs/paper.md says, and launch lines parse."""

from __future__ import annotations

import dataclasses
import logging
import re
import shlex

import pytest
from transformers import TrainingArguments

from swift.llm.arguments import DataArguments, ModelArguments, RLHFArguments, parse_rlhf_args
from swift.llm.ms_swift_arguments import whole_groups
from swift.llm.ms_swift_flags import FOREIGN_FLAGS, HARMLESS
from swift.utils.errors import UserError
from tests.support.builders import ROOT

TABLE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").partition("### Flags of ms-swift 3.3")[2]
THEIRS = [
    line
    for line in (ROOT / "tests" / "support" / "ms_swift_flags.txt").read_text(encoding="utf-8").split("\n")
    if line and not line.startswith("#")
]
PARAGRAPHS = (ROOT / "tests" / "support" / "launch_lines.txt").read_text(encoding="utf-8").strip().split("\n\n")[1:]
LAUNCH_LINES = dict(paragraph.removeprefix("# ").split("\n", 1) for paragraph in PARAGRAPHS)
OURS = {field.name for kind in (ModelArguments, DataArguments, RLHFArguments) for field in dataclasses.fields(kind)}


def rows() -> dict[str, tuple[str, str]]:
    """(verdict, meaning) of each flag in the table of docs/paper.md."""
    found: dict[str, tuple[str, str]] = {}
    for verdict, flags, meaning in re.findall(r"^\| (\w+) \| (.*?) \| (.*?) \|$", TABLE, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", flags):
            assert name not in found, f"{name} stands twice"
            found[name] = verdict, meaning
    return found


ROWS = rows()


@pytest.fixture
def base(tmp_path) -> str:
    return f"--model m --dataset d.json --reward_funcs a b --output_dir {tmp_path}/run"


@pytest.fixture
def logged(caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("chex").removeHandler(caplog.handler)


def parse(text: str):
    return parse_rlhf_args(shlex.split(text))


def other_value(name: str) -> str:
    """A value of a flag that is not one of those without consequence."""
    return next(value for value in ("false", "true", "7") if value not in HARMLESS.get(name, "").split())


def test_every_flag_of_ms_swift_is_in_the_table():
    assert sorted(set(THEIRS) - ROWS.keys()) == []


@pytest.mark.parametrize("name", THEIRS)
def test_the_table_says_what_the_parser_does(base, logged, name):
    verdict, meaning = ROWS[name]
    if verdict == "honored":
        assert name in OURS
        return
    assert name not in OURS
    command = f"{base} --{name} {other_value(name)}"
    if verdict == "refused":
        with pytest.raises(UserError, match=re.escape(f"--{name} {other_value(name)} is not supported: {meaning}")):
            parse(command)
        return
    parse(command)
    assert verdict == "warned"
    assert f"--{name} ({meaning})" in " ".join(logged.messages)


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_values_that_ask_for_what_happens_anyway_pass_without_a_word(base, logged, name):
    for value in HARMLESS[name].split():
        parse(f"{base} --{name} {value}")
    assert logged.messages == []


def test_no_flag_is_listed_as_foreign_and_as_our_own():
    assert sorted(FOREIGN_FLAGS.keys() & OURS) == []


@pytest.mark.parametrize("name", ["freeze_parameters", "modules_to_save", "trainable_parameters"])
def test_an_empty_shell_variable_is_not_refused(base, name):
    parse(f"{base} --{name}")


def test_a_bare_switch_counts_as_true(base):
    with pytest.raises(UserError, match="--use_dora is not supported"):
        parse(f"{base} --use_dora")


@pytest.mark.parametrize("name", LAUNCH_LINES)
def test_a_launch_line_of_ms_swift_parses(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    model, _, training = parse(LAUNCH_LINES[name])
    assert training.per_device_train_batch_size % training.num_generations == 0
    assert model.train_type in ("lora", "full", "dummy")


def test_there_are_24_launch_lines():
    assert len(LAUNCH_LINES) == 24


@pytest.mark.parametrize(
    ("per_device", "accumulation", "group", "expected", "reason"),
    [
        (8, 1, 8, (8, 1, None), "one whole group"),
        (16, 2, 8, (16, 2, None), "whole groups stay"),
        (2, 8, 8, (8, 2, 2), "the 16 completions of a step are two groups, in forwards of 2"),
        (4, 2, 8, (8, 1, 4), "one group from two accumulation steps"),
        (12, 2, 8, (8, 3, None), "24 completions are three groups"),
        (1, 1, 8, (8, 1, 1), "a group that was spread over eight devices"),
        (10, 1, 60, (60, 1, 10), "a group that was spread over six devices"),
        (7, 1, 49, (49, 1, 7), "seven devices"),
        (3, 1, 8, (8, 1, 2), "a forward of 3 does not divide 8, one of 2 does"),
        (5, 3, 6, (6, 3, 3), "15 completions grow to 18"),
    ],
)
def test_groups_are_whole_on_a_device(per_device, accumulation, group, expected, reason):
    assert whole_groups(per_device, accumulation, group) == expected, reason


def test_a_changed_batch_is_said(base, logged):
    _, _, training = parse(f"{base} --per_device_train_batch_size 1 --num_generations 8")
    assert (training.per_device_train_batch_size, training.mini_batch_size) == (8, 1)
    (line,) = logged.messages
    assert "groups of --num_generations 8 must be whole on a device" in line
    assert "8 completions per device in place of 1" in line


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ("--train_type lora --freeze_vit true --freeze_llm false --freeze_aligner true", ""),
        ("--train_type full --freeze_vit false", ""),
        ("--freeze_vit false", "--freeze_vit false"),
        ("--freeze_llm true", "--freeze_llm true"),
        ("--train_type full --freeze_vit true --freeze_aligner true", "--freeze_vit true, --freeze_aligner true"),
        ("--trainable lora --freeze_vit true", "--freeze_vit true"),
    ],
)
def test_freezing_is_warned_of_if_it_asks_for_what_does_not_happen(base, logged, flags, warned):
    parse(f"{base} {flags}")
    assert " ".join(logged.messages) == (
        f"{warned} without effect: --train_type and --trainable choose the parameters that train" if warned else ""
    )


def test_adapters_are_the_model_and_the_model_its_base(base):
    model, _, _ = parse(f"{base} --adapters a --train_type lora")
    assert (model.model, model.base_model, model.train_type) == ("a", "m", "dummy")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--epsilon_high 0", "--epsilon_high 0.0 must be above 0"),
        ("--repetition_penalty 0", "--repetition_penalty 0.0 must be above 0"),
        ("--mini_batch_size 3", "--mini_batch_size 3 must divide the 8 completions"),
        ("--stop_words ''", "--stop_words holds an empty text"),
        ("--scale_rewards batches", "--scale_rewards"),
        ("--adapters a b", "--adapters names several folders"),
        ("--lora_dropout 1", "--lora_dropout 1.0 must be at least 0 and below 1"),
        ("--target_regex '('", "--target_regex '(' is not a regular expression"),
        ("--truncation_strategy middle", "--truncation_strategy"),
        ("--max_pixels 0", "--max_pixels 0 must be 1 or more"),
    ],
)
def test_a_mistake_in_an_honored_flag_is_one_line(base, flags, words):
    with pytest.raises(UserError) as caught:
        parse(f"{base} {flags}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "kept"), [("", "group"), ("--scale_rewards", "group"), ("--scale_rewards true", "group"),
                       ("--scale_rewards false", "none"), ("--scale_rewards none", "none")],
)  # fmt: skip
def test_scale_rewards_is_a_switch_or_a_name(base, flag, kept):
    assert parse(f"{base} {flag}")[2].scale_rewards == kept


def test_validation_without_data_holds_out_the_share_of_ms_swift(base, logged):
    _, data, training = parse(f"{base} --eval_strategy steps")
    assert (data.split_dataset_ratio, training.eval_strategy) == (0.01, "steps")
    assert "--split_dataset_ratio 0.01, as in ms-swift" in logged.text


def test_a_tracker_that_is_not_installed_is_left_out_with_a_warning(base, logged):
    assert parse(f"{base} --report_to clearml")[2].report_to == []
    assert "--report_to clearml: its package is not installed" in logged.text


def test_differing_defaults_are_in_the_document():
    """The table of defaults names what these flags are here."""
    listed = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", TABLE, re.MULTILINE))
    defaults = {f.name: f.default for kind in (ModelArguments, DataArguments, RLHFArguments)
                for f in dataclasses.fields(kind)}  # fmt: skip
    assert len(listed) >= 12
    shown = {name: str(getattr(defaults[name], "value", defaults[name])).lower() for name in listed}
    shown["report_to"] = "none"
    assert {name: value.strip().lower() for name, value in listed.items()} == shown


def test_every_flag_of_transformers_is_a_field_or_foreign():
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert names <= OURS
