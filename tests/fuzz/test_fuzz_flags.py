"""Command lines of training and evaluation with any flags and values: parsed, or refused in one line."""

from __future__ import annotations

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments

from swift.evaluation.arguments import EvaluationArguments, TokenArguments
from swift.llm.arguments import (
    DataArguments,
    ModelArguments,
    RLHFArguments,
    SFTArguments,
    parse_rlhf_args,
    parse_sft_args,
)
from swift.utils.flags import FlagParser
from tests.support.fuzzing.values import TEXTS, fuzz, refusal

# Flags of the Trainer that reach for other programs, or whose defaults depend on them.
FOREIGN = {"deepspeed", "fsdp", "fsdp_config", "report_to", "hub_token", "push_to_hub", "accelerator_config", "debug"}
WORDS = TEXTS | st.sampled_from(
    ["true", "false", "0", "1", "2", "8", "-1", "0.5", "1e-5", "1e400", "inf", "auto", "none", "steps", "epoch", "no",
     "a b", "external_r1v_acc", "grpo", "cosine", "adamw_torch", '{"a": 1}', "[]", "a.json#5", "a.json#5!x", "1/2",
     "9/2", "a=b"]
)  # fmt: skip


def names_of(*kinds: type) -> list[str]:
    return sorted({field.name for kind in kinds for field in dataclasses.fields(kind)} - FOREIGN)


@st.composite
def command_lines(draw, names: list[str], given: list[str]) -> list[str]:
    """Some of the flags with values, and now and then words that are not flags."""
    words = list(given)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(names) if draw(st.integers(0, 9)) else TEXTS)
        values = draw(st.lists(WORDS, max_size=2))
        joined = f"--{name}={values[0]}" if values and draw(st.booleans()) else None
        words += [joined] if joined else [f"--{name}", *values]
    return words


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder to stand in, since a flag may name a folder of a run."""
    monkeypatch.chdir(tmp_path)


OWN = sorted(set(names_of(RLHFArguments)) - set(names_of(TrainingArguments)))
TRAINING = [*names_of(ModelArguments, DataArguments), *OWN * 2, *names_of(RLHFArguments)]


@fuzz(40)
@given(words=command_lines(TRAINING, ["--model", "m", "--dataset", "d.json", "--reward_funcs", "external_r1v_acc"]))
def test_flags_of_grpo(words):
    before = os.listdir()
    refusal(lambda: parse_rlhf_args([*words, "--use_cpu", "true"]))
    assert os.listdir() == before


@fuzz(60)
@given(words=command_lines(names_of(ModelArguments, DataArguments, SFTArguments), ["--model", "m", "--dataset", "d"]))
def test_flags_of_sft(words):
    refusal(lambda: parse_sft_args([*words, "--use_cpu", "true"]))


@fuzz(200)
@given(words=command_lines(names_of(EvaluationArguments, TokenArguments), ["--model_path", "m"]),
       kind=st.sampled_from([EvaluationArguments, TokenArguments]))  # fmt: skip
def test_flags_of_evaluation(words, kind):
    refusal(lambda: FlagParser((kind,), prog="evaluate.py", description="").parse(words)[0].part)
