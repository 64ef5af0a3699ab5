"""Rows of result files."""

import pytest

from swift.evaluation.results import result_row
from swift.llm.dataset import Record
from swift.llm.images.source import ImageSource


def test_fields_of_the_question_do_not_pass_for_the_models_output():
    """A file that was made from results carries the answers of another policy."""
    foreign = {
        "token_logprobs": [0.0],
        "token_ranks": [1],
        "generated_tokens": ["no"],
        "generated_text": "no",
        "given_text": "no",
        "samples": [{"generated_text": "no"}],
        "majority_answer": ["no"],
        "correct": {"exact_set": True},
        "is_correct": True,
        "num_tokens": 9,
        "finished": True,
        "image_paths": ["other.png"],
    }
    question = {"role": "user", "content": "Effusion?"}
    own = {"answer": ["yes"], "semantic_type": "verify", "token": "kept"}
    one = Record((), (question,), "<answer>yes</answer>", own | foreign, "x.json record 0")
    answer = {"text": "<answer>yes</answer>", "num_tokens": 3, "finished": False}
    row = result_row(one, 0, [answer])
    assert row.keys() & foreign.keys() == {"generated_text", "num_tokens", "finished", "image_paths"} | {
        "is_correct",
        "correct",
    }
    assert (row["generated_text"], row["num_tokens"], row["finished"]) == (answer["text"], 3, False)
    assert row["image_paths"] == []
    assert row.items() >= own.items()
    tokens = {"tokens": ["yes"], "logprobs": [-1.0], "entropies": [0.5], "ranks": [2]}
    given = result_row(one, 0, [answer | tokens], given=True)
    assert given["given_text"] == answer["text"]
    assert not given.keys() & (foreign.keys() - {"given_text", "image_paths"})


@pytest.mark.parametrize(
    ("columns", "name"),
    [({}, 3), ({"idx": None}, 3), ({"idx": None, "id": None}, 3), ({"id": "q"}, "q"), ({"idx": 0}, 0)],
)
def test_a_question_without_a_name_is_called_by_its_position(columns, name):
    one = Record((), ({"role": "user", "content": "Effusion?"},), "<answer>yes</answer>", columns, "x.json record 3")
    row = result_row(one, 3, [{"text": "", "num_tokens": 1, "finished": True}])
    assert row["id"] == name


def test_images_that_are_no_files_have_no_path():
    images = (ImageSource("a base64 image of 3 bytes", data=b"abc"), ImageSource.from_path("a.png"))
    one = Record(images, ({"role": "user", "content": "Effusion?"},), "<answer>yes</answer>", {}, "x.json record 0")
    row = result_row(one, 0, [{"text": "", "num_tokens": 1, "finished": True}])
    assert row["image_paths"] == [None, "a.png"]
