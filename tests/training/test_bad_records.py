"""Bad records in training: named before it, or left out of every epoch with --on_error skip."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from swift.cli import rlhf, sft
from swift.trainers.data import Replacements
from swift.utils.errors import UserError
from tests.support.builders import rlhf_command
from tests.support.sft_runs import sft_command

BAD = 3  # the record that is spoiled


def spoil(world, change, bad=BAD):
    """Spoil one record of a copied world: its file is cut, or its fields are changed."""
    file = world / "data" / "train.json"
    records = json.loads(file.read_text())
    if change == "cut":
        image = world / "data" / "images" / records[bad]["images"][0]
        image.write_bytes(image.read_bytes()[:-30])
    elif change == "late":  # the header and every checksum are sound, and the pixels are not
        image = world / "data" / "images" / records[bad]["images"][0]
        image.write_bytes(b"GIF89a\x38\x00\x38\x00\x00\x00\x00,\x00\x00\x00\x00\x38\x00\x38\x00\x00\x02\x01\x00\x00;")
    else:
        records[bad] |= change
        file.write_text(json.dumps(records))


@pytest.fixture
def spoiled(world, tmp_path):
    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    return copy


def run(command, world, output, **flags):
    if command == "sft":
        return sft.main(sft_command(world, output, per_device_train_batch_size=4, max_steps=4, **flags))
    small = {"per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 4, "max_steps": 4}
    rewards = {"reward_funcs": ["external_r1v_acc", "vowels"]}
    return rlhf.main(rlhf_command(world, output, **{**small, **rewards, **flags}))


CHANGES = [
    ("cut", "is truncated"),
    ({"images": ["gone.png"]}, "gone.png is missing"),
    ({"images": []}, "there is no image in it"),
    ({"messages": []}, "no user turn"),
    ({"solution": None, "answer": None}, "field 'solution' is missing"),
]


@pytest.mark.parametrize("command", ["rlhf", "sft"])
@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[words for _, words in CHANGES])
def test_a_bad_record_stops_a_run_before_it_begins(command, change, words, spoiled, tmp_path, capsys):
    spoil(spoiled, change)
    assert run(command, spoiled, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert f"record {BAD}" in error
    assert words in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["rlhf", "sft"])
@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[words for _, words in CHANGES])
def test_a_bad_record_is_left_out_and_listed_if_the_user_says_so(command, change, words, spoiled, tmp_path):
    spoil(spoiled, change)
    assert run(command, spoiled, tmp_path / "run", on_error="skip") == 0
    skipped = json.loads((tmp_path / "run" / "args.json").read_text())["skipped"]
    assert skipped["count"] == 1
    assert f"record {BAD}" in skipped["records"][0]
    assert words in skipped["records"][0]
    if command == "rlhf":
        lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
        assert BAD not in {json.loads(line)["idx"] for line in lines}, "over more than an epoch"


def test_the_images_of_all_records_are_counted_in_args_json(spoiled, tmp_path):
    spoil(spoiled, {"images": ["000.png", "001.png"]})
    assert run("sft", spoiled, tmp_path / "run") == 0
    written = json.loads((tmp_path / "run" / "args.json").read_text())
    assert written["images"]["training"] == "11 with 1 image, 1 with 2 images"


def test_records_without_an_image_are_used_and_listed_by_flag(spoiled, tmp_path, caplog):
    spoil(spoiled, {"images": []})
    assert run("sft", spoiled, tmp_path / "run", unseen="count") == 0
    unseen = json.loads((tmp_path / "run" / "args.json").read_text())["unseen"]
    assert unseen["count"] == 1
    assert f"record {BAD}" in unseen["records"][0]
    assert "1 record is used although an image may be unseen" in caplog.text


@pytest.mark.parametrize("command", ["rlhf", "sft"])
@pytest.mark.parametrize("bad", [0, BAD, 11])
def test_an_image_that_turns_out_to_be_damaged_during_the_run_is_replaced(command, bad, spoiled, tmp_path):
    spoil(spoiled, "late", bad)
    flags = {"on_error": "skip", "check_images": "false"}
    assert run(command, spoiled, tmp_path / "run", **flags) == 0
    skipped = json.loads((tmp_path / "run" / "args.json").read_text())["skipped_during_run"]
    assert skipped["count"] == 1
    assert f"record {bad}:" in skipped["records"][0]


def test_nothing_is_left_if_every_record_is_bad(spoiled, tmp_path, capsys):
    shutil.rmtree(spoiled / "data" / "images")
    (spoiled / "data" / "images").mkdir()
    assert run("sft", spoiled, tmp_path / "run", on_error="skip") == 2
    assert "no training record is left of 12" in capsys.readouterr().err


def test_strict_false_of_ms_swift_leaves_bad_records_out(spoiled, tmp_path):
    spoil(spoiled, {"images": ["gone.png"]})
    assert run("rlhf", spoiled, tmp_path / "run", strict="false") == 0
    assert json.loads((tmp_path / "run" / "args.json").read_text())["skipped"]["count"] == 1


def test_a_message_of_sft_does_not_speak_of_rewards(spoiled, tmp_path, capsys):
    spoil(spoiled, {"solution": None, "answer": None})
    assert run("sft", spoiled, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "field 'solution' is missing or empty" in said
    assert "reward" not in said


def test_a_run_is_resumed_only_without_the_same_records(spoiled, tmp_path, capsys):
    spoil(spoiled, {"images": ["gone.png"]})
    assert run("sft", spoiled, tmp_path / "run", on_error="skip", save_steps=2) == 0
    shutil.copy(spoiled / "data" / "images" / "000.png", spoiled / "data" / "images" / "gone.png")
    assert run("sft", spoiled, tmp_path / "run", save_steps=2, resume_from_checkpoint="true") == 2
    assert "the contents of --dataset" in capsys.readouterr().err


def replaced(bad: set[int], length: int = 5, skips: bool = True) -> tuple[Replacements, list[int]]:
    """Items read in order, of which ``bad`` are unreadable. An item is its index."""

    def encode(indexes):
        if bad & set(indexes):
            raise UserError("unreadable")
        return list(indexes)

    replacements = Replacements(length)
    replacements.skips = skips
    return replacements, replacements.read(range(length), encode)


def test_a_replacement_is_the_next_readable_item():
    replacements, items = replaced({1, 2, 4})
    assert items == [0, 3, 3, 3, 0]
    assert sorted(replacements.problems) == [1, 2, 4]


def test_without_skipping_an_unreadable_item_is_an_error():
    with pytest.raises(UserError, match="unreadable"):
        replaced({1}, skips=False)


def test_without_a_readable_item_there_is_no_replacement():
    with pytest.raises(UserError, match="no record can be read any more"):
        replaced(set(range(5)))


def test_a_part_of_a_file_is_trained_on_and_another_part_is_another_run(world, tmp_path, capsys, caplog):
    part = f"{world / 'data' / 'train.json'}#6"
    caplog.set_level(logging.INFO, "chex")
    assert run("sft", world, tmp_path / "run", dataset=part, save_steps=2) == 0
    assert "6 training records: 6 with 1 image" in caplog.text
    other = part.replace("#6", "#5")
    assert run("sft", world, tmp_path / "run", dataset=other, save_steps=2, resume_from_checkpoint="true") == 2
    assert "the contents of --dataset" in capsys.readouterr().err


def test_a_reward_on_reasoning_says_how_many_records_have_only_an_answer(spoiled, tmp_path, caplog):
    spoil(spoiled, {"solution": None})
    rewards = {"reward_funcs": ["external_r1v_acc", "external_kg_jac"]}
    assert run("rlhf", spoiled, tmp_path / "run", **rewards) == 0
    assert "reward external_kg_jac compares reasoning, and 1 of 12 solutions have none" in caplog.text
    assert "reward external_r1v_acc" not in caplog.text
