"""Hostile values of flags: each is one line, whatever the command, and none is a traceback."""

from __future__ import annotations

import pytest

from swift.evaluation.arguments import TokenArguments
from swift.llm.arguments import parse_rlhf_args, parse_sft_args
from swift.utils.errors import UserError
from swift.utils.flag_limits import CommandParser
from swift.utils.flags import FlagParser
from tools import ask, check_data, sample_data

HOSTILE = [
    "inf", "-inf", "nan", "0", "-1", "1e400", "1" + "0" * 400, "1" + "0" * 5000, "1.5", "9223372036854775808",
    "", " ", "x" * 5000, "a\nb", "\udcff", "a\0b", "/dev/full", "{}", "[]",
]  # fmt: skip
BASES = {
    "rlhf": (parse_rlhf_args, ["--model", "m", "--dataset", "d", "--reward_funcs", "x", "--use_cpu", "true"]),
    "sft": (parse_sft_args, ["--model", "m", "--dataset", "d", "--use_cpu", "true"]),
    "evaluate": (FlagParser((TokenArguments,), prog="p", description="d").parse, ["--model_path", "m"]),
}
NUMBERS = [
    "logging_steps", "save_steps", "max_steps", "learning_rate", "num_train_epochs", "seed", "dynamic_hd",
    "gradient_accumulation_steps", "per_device_train_batch_size", "adam_beta1", "dataloader_num_workers",
]  # fmt: skip


def refusal(command: str, flag: str, value: str) -> str | None:
    """The message with which a command refuses a value; None if it takes it."""
    parse, base = BASES[command]
    try:
        parse([*base, "--output_dir", "/tmp/new", f"--{flag}={value}"])
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("command", ["rlhf", "evaluate"])
def test_no_value_of_a_flag_is_a_traceback(command):
    flags = ("logging_steps", "seed", "model", "output_dir", "system", "resume_from_checkpoint")
    own = ("model_path", "output_dir", "max_samples", "temperature", "batch_size", "shard", "num_workers", "img_root")
    for flag in own if command == "evaluate" else flags:
        for value in HOSTILE:
            refusal(command, flag, value)


@pytest.mark.parametrize("flag", NUMBERS)
def test_numbers_that_no_run_can_use_are_refused(flag):
    """``--logging_steps inf`` was a traceback after the model was loaded, and a batch of 0 a division by zero."""
    for value in ("inf", "-inf", "nan", "1e400", "1" + "0" * 400, "x" * 5000):
        assert flag in refusal("rlhf", flag, value)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("logging_steps", "0", "must be above 0"),
        ("save_steps", "-1", "must be above 0"),
        ("eval_steps", "-0.5", "must be above 0"),
        ("per_device_train_batch_size", "0", "must be 1 or more"),
        ("gradient_accumulation_steps", "-1", "must be 1 or more"),
        ("learning_rate", "-1", "must be 0 or more"),
        ("adam_beta1", "1", "must be below 1"),
        ("seed", "-1", "must be 0 or more"),
        ("seed", "4294967296", "must be at most 4294967295"),
        ("num_generations", "1000000", "must be at most 65536"),
        ("dataset", "", "is empty"),
        ("model", " \t", "is empty"),
        ("ref_model", "a\0b", "NUL byte"),
        ("system", "\udcff", "is not UTF-8"),
        ("system", "/dev/full", "is a device"),
        ("dataset", "/dev/null", "is a device"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_bound(flag, value, words):
    message = refusal("rlhf", flag, value)
    assert f"--{flag} " in message
    assert words in message


def test_bounds_themselves_are_taken():
    for flag, value in (("seed", "4294967295"), ("adam_beta1", "0"), ("logging_steps", "0.5"), ("warmup_steps", "0")):
        assert refusal("rlhf", flag, value) is None


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (sample_data.main, ["--pool", "p.json", "--sizes", "many"]),
        (sample_data.main, ["--pool", "", "--sizes", "5"]),
        (sample_data.main, ["--po", "p.json", "--sizes", "5"]),
        (check_data.main, ["/dev/full"]),
        (check_data.main, ["."]),
        (ask.main, ["m", "i.png", "q", "--max_new_tokens", "1" + "0" * 400]),
        (ask.main, ["m", "i.png", "q", "--temperature", "nan"]),
        (ask.main, ["m", "i.png", "q", "--seed", "two\nlines"]),
    ],
)
def test_a_mistake_in_a_flag_of_a_tool_is_one_line(main, words, capsys):
    """argparse prints its usage first, over many lines."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_a_parser_passes_what_is_good():
    parser = CommandParser(prog="p")
    parser.add_argument("--rate", type=float, nargs="+")
    assert parser.parse_args(["--rate", "0.5", "2"]).rate == [0.5, 2.0]
    with pytest.raises(UserError, match="--rate inf must be a finite number"):
        parser.parse_args(["--rate", "0.5", "inf"])
