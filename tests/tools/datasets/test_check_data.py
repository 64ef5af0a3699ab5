"""Facts about files of records, said without a model."""

from __future__ import annotations

import json

import pytest

from tests.support.builders import random_image
from tools import check_data

ASKED = {"question": "Is there an effusion?", "question_type": "presence"}
WHOLE = "<think>There is a left pleural effusion.</think><answer>yes</answer>"


@pytest.fixture
def said(tmp_path, capsys):
    """Status and lines about records, each line with its blanks joined."""
    import numpy as np

    (tmp_path / "images").mkdir()
    for name in "ab":
        random_image(np.random.default_rng(0)).save(tmp_path / "images" / f"{name}.png")

    def check(*records: dict) -> tuple[int, list[str]]:
        file = tmp_path / "data.json"
        file.write_text(json.dumps(records))
        status = check_data.main([str(file)])
        return status, [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return check


def test_what_the_records_hold_is_counted(said):
    first = ASKED | {"images": ["a.png"], "explanation": WHOLE, "subject_id": 1}
    second = ASKED | {"image_ids": ["a", "b"], "answer": ["yes"]}
    status, lines = said(first, second)
    assert status == 0
    assert "records 2" in lines
    assert "images 1 with 1 image, 1 with 2 images; 2 different images" in lines
    assert "solutions 1 from explanation, 1 from answer" in lines
    assert "explanations 1 of 2 have reasoning" in lines
    assert "patients 1; 1 records name none (subject_id)" in lines


def test_what_a_reward_or_a_figure_lacks_is_named(said):
    _, lines = said(ASKED | {"images": ["a.png"], "answer": ["yes"]})
    assert "external_r1v_acc has all it needs" in lines
    assert "external_kg_jac 1 of 1 records have no reasoning to compare with, only an answer" in lines
    assert "external_countdown 1 of 1 records lack target; 1 of 1 records lack nums" in lines
    assert "external_code_reward no record has verification_info, which it reads" in lines
    assert "knowledge graphs 1 of 1 records have no reasoning to compare with" in lines
    assert "intervals 1 of 1 records name no patient (subject_id)" in lines
    assert "sampling by kind has all it needs" in lines


def test_records_that_training_refuses_are_listed(said):
    good = ASKED | {"images": ["a.png"], "answer": ["yes"]}
    status, lines = said(good, good | {"images": ["gone.png"]}, good | {"images": []}, {"answer": "yes"})
    assert status == 1
    start = lines.index("3 records would be refused:")
    assert "gone.png is missing" in " ".join(lines[start:])
    assert "record 2: there is no image in it" in " ".join(lines[start:])
    assert "record 3: no field 'messages' nor 'question'" in " ".join(lines[start:])


def test_a_reward_says_which_records_have_no_report(said):
    row = ASKED | {"images": ["a.png"], "answer": "yes"}
    _, lines = said(row, row | {"report": "FINDINGS: No effusion."})
    assert any(line.startswith("external_kg_report 1 of 2 records have no report to compare with") for line in lines)


def test_a_reward_that_cannot_be_set_up_says_what_it_needs(said):
    _, lines = said(ASKED | {"images": ["a.png"], "answer": "yes"})
    (told,) = (line for line in lines if line.startswith("soft_overlong"))
    assert "cannot be set up: soft_overlong needs --soft_cache_length" in told
