"""An evaluation that was killed, divided or repaired leaves the bytes of an undisturbed one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import evaluate_token_prob
from swift.evaluation.partial_results import PartialWriter, partial_answers_path, partial_answers_paths, read_partial
from tests.support.builders import TORCHRUN, run_python, write_world

NAME = "policy_train_checkpoint_token_prob"


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """A world of 36 questions."""
    return write_world(tmp_path_factory.mktemp("with space"), records=36)


def flags(world: Path, output: Path, *more: object) -> list[str]:
    words = ["--model_path", world / "policy", "--annotation_file", world / "data" / "train.json"]
    words += ["--output_dir", output, "--batch_size", 4, "--max_new_tokens", 3, "--no_tqdm", *more]
    return list(map(str, words))


def run(world: Path, output: Path, *more: object) -> int:
    return evaluate_token_prob.main(flags(world, output, *more))


def result(output: Path) -> Path:
    return output / f"{NAME}.json"


def only_files(output: Path) -> set[str]:
    return {path.name for path in output.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(questions, tmp_path_factory) -> bytes:
    """The result file of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert run(questions, output) == 0
    assert only_files(output) == {f"{NAME}.json", f"{NAME}.run.json"}
    return result(output).read_bytes()


@pytest.fixture(scope="module")
def half(questions, tmp_path_factory) -> Path:
    """A folder with the answers of one of two parts."""
    output = tmp_path_factory.mktemp("half")
    assert run(questions, output, "--shard", "1/2") == 0
    assert only_files(output) == {f"{NAME}_shard-1-of-2.partial.jsonl"}
    return output


@pytest.fixture
def begun(half, tmp_path) -> Path:
    """A copy of that folder, to be resumed."""
    return Path(shutil.copytree(half, tmp_path / "begun"))


def test_killed_at_ten_random_moments_the_file_is_byte_identical(questions, tmp_path):
    process = run_python("tests.support.killed_evaluations", questions, tmp_path, 10)
    assert process.returncode == 0, process.stderr + (tmp_path / "log").read_text()
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["kills"] == 10
    assert report["with_answers"] >= 2  # or nothing would have been resumed
    assert report["identical"] == [True] * len(report["identical"])


def test_two_parts_leave_the_same_file_whichever_ends_last(questions, undisturbed, begun, tmp_path, capsys):
    assert run(questions, begun, "--shard", "2/2") == 0
    assert result(begun).read_bytes() == undisturbed
    assert only_files(begun) == {f"{NAME}.json", f"{NAME}.run.json"}
    assert run(questions, tmp_path / "turned", "--shard", "2/2") == 0
    assert "questions wait for other parts" in capsys.readouterr().out
    assert run(questions, tmp_path / "turned", "--shard", "1/2") == 0
    assert result(tmp_path / "turned").read_bytes() == undisturbed


def test_two_processes_leave_the_same_file(questions, undisturbed, tmp_path):
    process = run_python("evaluate_token_prob", *flags(questions, tmp_path), launcher=TORCHRUN)
    assert process.returncode == 0, process.stderr
    assert result(tmp_path).read_bytes() == undisturbed
    runs = json.loads((tmp_path / f"{NAME}.run.json").read_text())["runs"]
    assert [(one["part"], one["questions"]) for one in runs] == [("1/2", 20), ("2/2", 16)]  # nine batches of four
    assert process.stdout.count("36 questions about 18 patients") == 1


@pytest.mark.parametrize("left", [0.0, 0.1, 0.37, 0.62, 0.99])
def test_a_file_cut_anywhere_is_gone_on_from_by_one_process(questions, undisturbed, begun, left):
    (partial,) = partial_answers_paths(result(begun))
    content = partial.read_bytes()
    partial.write_bytes(content[: int(left * len(content))])
    kept = read_partial(partial)
    assert run(questions, begun) == 0
    assert result(begun).read_bytes() == undisturbed
    answered = json.loads((begun / f"{NAME}.run.json").read_text())["runs"][0]["questions"]
    assert answered >= 36 - (len(kept.rows) if kept else 0)  # a batch that was cut is answered whole


def test_a_line_that_was_cut_is_dropped_before_the_file_is_written_on(questions, undisturbed, begun, capsys):
    """Once glued to the next line, it would damage the file for the restart after."""
    (partial,) = partial_answers_paths(result(begun))
    own = partial_answers_path(result(begun))
    own.write_bytes(partial.read_bytes()[:-300])
    partial.unlink()
    header = read_partial(own).header
    PartialWriter(own, header, {}).close()
    PartialWriter(own, header, {}).close()
    assert own.read_bytes().count(b'{"header"') == 1
    assert run(questions, begun) == 0
    assert result(begun).read_bytes() == undisturbed


def test_a_question_whose_image_has_changed_is_answered_again(questions, begun, tmp_path):
    world = Path(shutil.copytree(questions, tmp_path / "world"))
    (partial,) = partial_answers_paths(result(begun))
    index = next(iter(read_partial(partial).rows))
    picture = world / "data" / "images" / f"{index:03d}.png"
    Image.new("RGB", Image.open(picture).size, "black").save(picture)
    assert run(world, begun) == 0
    fresh = tmp_path / "fresh"
    assert run(world, fresh) == 0
    assert result(begun).read_bytes() == result(fresh).read_bytes()


def test_every_place_a_line_can_be_cut_at_is_read(begun):
    (partial,) = partial_answers_paths(result(begun))
    content = partial.read_bytes()
    end = content.rfind(b"\n", 0, -1) + 1
    whole = read_partial(partial)
    for cut in range(end, len(content)):
        partial.write_bytes(content[:cut])
        assert read_partial(partial).rows == whole.rows


def test_a_finished_file_is_kept_and_another_of_other_settings_refused(questions, half, begun, capsys):
    assert run(questions, begun) == 0
    before = result(begun).read_bytes()
    capsys.readouterr()
    assert run(questions, begun) == 0
    assert "exists already" in capsys.readouterr().out
    assert run(questions, begun, "--max_new_tokens", 2) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "max_new_tokens 3, now 2" in error
    assert "--resume false" in error
    assert result(begun).read_bytes() == before
    assert run(questions, begun, "--max_new_tokens", 2, "--resume", "false") == 0
    assert json.loads(result(begun).read_text())["settings"]["max_new_tokens"] == 2


def test_answers_of_other_settings_are_not_gone_on_from(questions, undisturbed, begun, capsys):
    (partial,) = partial_answers_paths(result(begun))
    before = partial.read_bytes()
    assert run(questions, begun, "--control", "blank") == 0  # a file of another name
    assert run(questions, begun, "--top_k_alternatives", 1) == 2
    assert "top_k_alternatives 0, now 1" in capsys.readouterr().err
    assert partial.read_bytes() == before
    assert run(questions, begun, "--resume", "false") == 0
    assert result(begun).read_bytes() == undisturbed


def test_other_weights_and_other_questions_are_other_settings(questions, begun, tmp_path, capsys):
    for name, words in (("policy", "weights"), ("data", "questions")):
        changed = Path(shutil.copytree(questions, tmp_path / name))
        file = {
            "policy": changed / "policy" / "model.safetensors",
            "data": changed / "data" / "train.json",
        }[name]
        content = bytearray(file.read_bytes())
        place = content.rfind(b"left") if name == "data" else len(content) - 1
        content[place : place + 1] = b"L"
        file.write_bytes(content)
        assert run(changed, begun) == 2
        assert f"other settings ({words} " in capsys.readouterr().err


def test_a_line_damaged_in_the_middle_costs_one_batch(questions, undisturbed, begun, caplog):
    """All answers were once refused."""
    (partial,) = partial_answers_paths(result(begun))
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join([*lines[:3], b'{"index"\n', *lines[4:]]))
    assert run(questions, begun) == 0
    assert "line 4 is damaged" in caplog.text
    assert result(begun).read_bytes() == undisturbed
    runs = json.loads((begun / f"{NAME}.run.json").read_text())["runs"]
    assert [one["questions"] for one in runs] == [20, 20]  # 16 were waiting, and four share the damaged batch


def test_a_full_disk_is_one_line_and_when_there_is_room_the_answers_go_on(
    questions, undisturbed, tmp_path, small_disk, capsys
):
    """It was a traceback, and half a line that no restart could read."""
    small_disk(12_000)
    assert run(questions, tmp_path) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"error: {tmp_path / NAME}.partial.jsonl: File too large; ")
    assert only_files(tmp_path) == {f"{NAME}.partial.jsonl"}
    kept = len(read_partial(partial_answers_path(result(tmp_path))).rows)
    assert 0 < kept < 36
    small_disk(1 << 30)
    assert run(questions, tmp_path) == 0
    assert result(tmp_path).read_bytes() == undisturbed
    runs = json.loads((tmp_path / f"{NAME}.run.json").read_text())["runs"]
    assert [one["questions"] for one in runs] == [kept, 36 - kept]


def test_a_folder_removed_while_it_is_written_to_is_one_line(questions, tmp_path, capsys, monkeypatch):
    """The answers were lost, and the status was 0."""
    append = PartialWriter.append

    def remove_after(self, rows, seconds):
        append(self, rows, seconds)
        shutil.rmtree(tmp_path / "out")

    monkeypatch.setattr(PartialWriter, "append", remove_after)
    assert run(questions, tmp_path / "out") == 1
    assert "removed while it was written to" in capsys.readouterr().err.splitlines()[-1]
    assert run(questions, tmp_path / "out", "--batch_size", 36) == 2  # removed after the last answer
    assert "answers were removed" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def broken(questions, tmp_path) -> tuple[Path, Path]:
    """A world with one image that is missing and one whose pixels are cut off, which its header does not tell; and the
    latter's file."""
    world = Path(shutil.copytree(questions, tmp_path / "world"))
    rows = json.loads((world / "data" / "train.json").read_text())
    picture = world / "data" / "images" / "cut.jpg"
    Image.effect_noise((28, 28), 80).convert("RGB").save(picture, quality=95)
    picture.write_bytes(picture.read_bytes()[:-200])
    rows[5]["images"], rows[7]["images"] = ["gone.png"], ["cut.jpg"]
    (world / "data" / "train.json").write_text(json.dumps(rows))
    return world, picture


def test_unreadable_images_are_skipped_by_choice_counted_and_listed(broken, tmp_path, capsys):
    world, _ = broken
    assert run(world, tmp_path / "stopped") == 2
    assert "gone.png is missing" in capsys.readouterr().err
    assert run(world, tmp_path / "out", "--on_error", "skip") == 0
    assert "34 questions about 18 patients, 2 skipped" in capsys.readouterr().out
    document = json.loads(result(tmp_path / "out").read_text())
    assert (document["num_samples"], document["num_skipped"]) == (34, 2)
    assert [row["id"] for row in document["skipped"]] == [5, 7]
    assert "gone.png is missing" in document["skipped"][0]["reason"]
    assert "cut.jpg is truncated" in document["skipped"][1]["reason"]
    assert document["skipped"][1]["source"].endswith("train.json record 7")
    assert "34 questions answered; 2 skipped" in document["scored_over"]
    assert [row["id"] for row in document["results"]] == [n for n in range(36) if n not in (5, 7)]
    assert document["accuracy"] == sum(row["is_correct"] for row in document["results"]) / 34


def test_answers_before_a_broken_image_are_kept_for_when_it_is_mended(broken, tmp_path, capsys):
    world, picture = broken
    shutil.copy(world / "data" / "images" / "000.png", world / "data" / "images" / "gone.png")
    assert run(world, tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cut.jpg is truncated" in error
    assert "--on_error skip" in error
    (partial,) = partial_answers_paths(result(tmp_path / "out"))
    kept = len(read_partial(partial).rows)
    assert kept > 0
    Image.effect_noise((28, 28), 80).convert("RGB").save(picture)
    assert run(world, tmp_path / "out") == 0
    runs = json.loads((tmp_path / "out" / f"{NAME}.run.json").read_text())["runs"]
    assert [one["questions"] for one in runs] == [kept, 36 - kept]


def test_where_every_question_is_skipped_there_is_no_result(questions, tmp_path, capsys):
    world = Path(shutil.copytree(questions, tmp_path / "world"))
    for image in (world / "data" / "images").iterdir():
        image.unlink()
    assert run(world, tmp_path / "out", "--on_error", "skip") == 2
    assert "no question can" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_automatic_batch_size_goes_on_with_the_batches_that_were_begun(questions, begun, undisturbed):
    assert run(questions, begun, "--batch_size", "auto") == 0
    assert result(begun).read_bytes() == undisturbed


def test_two_checkpoints_in_one_call_leave_a_file_each_and_one_name_twice_is_refused(questions, tmp_path, capsys):
    second = shutil.copytree(questions / "policy", tmp_path / "second")
    more = ["--model_path", questions / "policy", second, "--max_samples", 4]
    assert run(questions, tmp_path / "out", *more) == 0
    assert {"second_train_checkpoint_token_prob.json", f"{NAME}.json"} <= only_files(tmp_path / "out")
    assert run(questions, tmp_path / "twice", "--model_path", second, tmp_path / "second") == 2
    assert "would both write" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--resume", "false"]])
def test_a_part_that_another_process_answers_is_left_to_it(questions, undisturbed, begun, capsys, more):
    (partial,) = partial_answers_paths(result(begun))
    writer = PartialWriter(partial, {}, {"host": "other"})
    before = partial.read_bytes()
    assert run(questions, begun, "--shard", "1/2", "--batch_size", 3, "--resume", "false") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "another process writes to" in error
    assert "--shard" in error
    own = partial_answers_path(result(begun))
    partial.rename(own)
    assert run(questions, begun, *more) == 2
    assert "another process writes to" in capsys.readouterr().err
    assert own.read_bytes() == before
    writer.append([], 0.0)
    writer.close()
    assert run(questions, begun) == 0
    assert result(begun).read_bytes() == undisturbed


def test_parts_that_start_over_do_not_meet_the_old_result(questions, undisturbed, begun):
    assert run(questions, begun) == 0
    result(begun).write_bytes(undisturbed.replace(b'"is_correct": ', b'"was_correct": '))
    assert run(questions, begun, "--shard", "1/2", "--resume", "false") == 0
    assert only_files(begun) == {f"{NAME}_shard-1-of-2.partial.jsonl"}
    assert run(questions, begun, "--shard", "2/2") == 0
    assert result(begun).read_bytes() == undisturbed


def test_parts_of_different_batches_are_refused_and_one_process_may_go_on(questions, begun, capsys):
    assert run(questions, begun, "--shard", "2/2", "--batch_size", 5) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "pass --batch_size 4" in error
    assert only_files(begun) == {f"{NAME}_shard-1-of-2.partial.jsonl"}
    assert run(questions, begun, "--batch_size", 5) == 0
    assert only_files(begun) == {f"{NAME}.json", f"{NAME}.run.json"}
