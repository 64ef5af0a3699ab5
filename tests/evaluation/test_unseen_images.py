"""Questions without an image, and questions with an answer alone, through evaluate.py."""

from __future__ import annotations

import json

import pytest

import evaluate

ASKING = {"question": "Is there a pleural effusion?", "answer": ["yes"]}


@pytest.fixture
def evaluated(world, tmp_path):
    """Status and result of an evaluation of these questions with a tiny policy."""

    def run(*questions: object, flags: tuple[str, ...] = ()) -> tuple[int, dict | None]:
        file = tmp_path / "questions.json"
        file.write_text(json.dumps([ASKING | row if isinstance(row, dict) else row for row in questions]))
        words = ["--model_path", world / "policy", "--annotation_file", file, "--output_dir", tmp_path / "result"]
        words += ["--img_root", world / "data" / "images", "--max_new_tokens", 4, "--no_tqdm", *flags]
        status = evaluate.main(list(map(str, words)))
        results = list((tmp_path / "result").glob("*_results.json"))
        return status, json.loads(results[0].read_text()) if results else None

    return run


SEEN, BLIND = {"image_ids": ["000"]}, {"image_ids": []}


def test_a_question_without_an_image_is_refused(evaluated, capsys):
    status, result = evaluated(SEEN, BLIND)
    assert (status, result) == (2, None)
    error = capsys.readouterr().err
    assert "record 1: there is no image in it, and 1 other has one" in error
    assert "--unseen count" in error


def test_a_file_without_any_image_is_refused(evaluated, capsys):
    assert evaluated(BLIND, BLIND)[0] == 2
    assert "none of the others has one either" in capsys.readouterr().err


def test_it_is_asked_and_listed_by_flag(evaluated, capsys):
    status, result = evaluated(SEEN, BLIND, flags=("--unseen", "count"))
    assert status == 0
    assert result["num_samples"] == 2
    assert result["unseen"]["count"] == 1
    assert "record 1" in result["unseen"]["records"][0]
    assert "1 with 1 image, 1 without an image" in capsys.readouterr().out


def test_it_is_skipped_with_other_bad_questions(evaluated):
    _, result = evaluated(SEEN, BLIND, {"image_ids": ["gone"]}, flags=("--on_error", "skip"))
    assert result["num_samples"] == 1
    reasons = " ".join(row["reason"] for row in result["skipped"])
    assert "there is no image in it" in reasons
    assert "gone.png is missing" in reasons


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"question": 5, "messages": None}, "question"),
        ({"answer": {"yes": 1}}, "answer"),
        ({"image_ids": {"a": "b"}}, "image_ids"),
        ("only a text", "record 1"),
        (None, "record 1"),
    ],
)
def test_a_malformed_question_is_skipped_counted_and_listed(evaluated, bad, words):
    status, result = evaluated(SEEN, bad, SEEN | {"idx": "c"}, flags=("--on_error", "skip"))
    assert status == 0
    assert (result["num_samples"], result["num_skipped"]) == (2, 1)
    (skipped,) = result["skipped"]
    assert skipped["source"].endswith("record 1")
    assert words in skipped["reason"]


def test_a_second_question_of_one_name_is_skipped(evaluated):
    status, result = evaluated(SEEN | {"idx": "a"}, SEEN | {"idx": "a"}, SEEN, flags=("--on_error", "skip"))
    assert status == 0
    assert result["num_samples"] == 2
    assert "'a' is also the name of" in result["skipped"][0]["reason"]


def test_two_questions_of_one_name_stop_without_the_flag(evaluated, capsys):
    assert evaluated(SEEN | {"idx": "a"}, SEEN | {"idx": "a"})[0] == 2
    assert "give each question an 'idx' of its own" in capsys.readouterr().err


def test_without_the_flag_a_malformed_question_stops(evaluated, capsys):
    assert evaluated(SEEN, "only a text")[0] == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_file_of_malformed_questions_alone_is_one_line(evaluated, capsys):
    assert evaluated("a", "b", flags=("--on_error", "skip"))[0] == 2
    assert "no entry is a question, the first" in capsys.readouterr().err


def test_an_answer_alone_is_no_explanation(evaluated):
    _, result = evaluated(SEEN | {"answer": 3}, SEEN | {"answer": True, "idx": "b"})
    first, second = result["results"]
    assert (first["answer"], second["answer"]) == ("3", "yes")
    assert (first["explanation"], second["explanation"]) == (None, None)
    assert "kg_jaccard" not in result["metrics"]


def test_a_part_of_a_file_has_a_result_of_its_own(evaluated, world, tmp_path):
    evaluated(SEEN, SEEN | {"idx": "b"})
    flags = ["--model_path", world / "policy", "--annotation_file", f"{tmp_path / 'questions.json'}#1"]
    flags += ["--output_dir", tmp_path / "result", "--img_root", world / "data" / "images", "--max_new_tokens", 4]
    assert evaluate.main(list(map(str, flags))) == 0
    names = sorted(path.name for path in (tmp_path / "result").glob("*_results.json"))
    assert names == ["policy_questions_1_checkpoint_results.json", "policy_questions_checkpoint_results.json"]
