"""Questions about an image from the command line."""

from __future__ import annotations

import io

import pytest

from tools import ask

QUESTION = "Is there a pleural effusion?"


@pytest.fixture
def asked(world, monkeypatch, capsys):
    """Status, screen and errors of a session with these lines of input."""

    def run(*words: object, lines: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        status = ask.main(list(map(str, [world / "policy", *words, "--max_new_tokens", 5])))
        return status, *capsys.readouterr()

    return run


def test_one_question_gets_an_answer_and_its_facts(asked, world):
    status, screen, _ = asked(world / "data" / "images" / "000.png", QUESTION)
    assert status == 0
    answer, facts = screen.strip().split("\n\n")
    assert answer
    assert facts


def test_it_goes_on_asking_until_an_empty_line(asked, world, monkeypatch):
    answers = []
    monkeypatch.setattr(ask, "print_answer", answers.append)
    assert asked(world / "data" / "images" / "000.png", QUESTION, lines="Is it?\nWhere?\n\nNever asked.\n")[0] == 0
    assert len(answers) == 3


def test_facts_are_those_of_the_reasoning(capsys):
    ask.print_answer("<think>There is a small left pleural effusion.</think><answer>yes</answer>")
    assert "effusion" in capsys.readouterr().out.split("\n\n")[1]


def test_an_image_that_is_missing_is_one_line(asked, tmp_path):
    status, screen, error = asked(tmp_path / "gone.png", QUESTION)
    assert (status, screen) == (2, "")
    assert "gone.png is missing" in error
    assert len(error.splitlines()) == 1
