"""Reading datasets: the three forms of records, and one line for each mistake in a file or a record."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from swift.llm.dataset import check_records, image_placeholders, load_records
from swift.llm.images.source import open_image
from swift.utils.errors import UserError

FORM_A = {
    "images": ["a.png"],
    "messages": [{"role": "user", "content": "Effusion?"}],
    "solution": "<think>t</think><answer>yes</answer>",
    "idx": 7,
    "subject_id": 10,
    "answer": ["yes"],
}
FORM_B = {
    "messages": [{"role": "user", "content": "Effusion?"}, {"role": "assistant", "content": "<answer>no</answer>"}],
    "image": "a.png",
    "question": "Effusion?",
    "answer": "no",
}
EVALUATION = {
    "question": "What changed?",
    "answer": ["opacity"],
    "explanation": "<answer>opacity</answer>",
    "image_ids": ["a", "b"],
    "idx": 3,
    "semantic_type": "query",
}


@pytest.fixture
def root(tmp_path) -> Path:
    """data/images/{a,b}.png beside data/annotations/eval/."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for name in "ab":
        Image.new("L", (8, 8), 50).save(folder / f"{name}.png")
    (tmp_path / "data" / "annotations" / "eval").mkdir(parents=True)
    return tmp_path / "data"


def written(root: Path, content, name: str = "x.json") -> Path:
    path = root / "annotations" / "eval" / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def one(root: Path, record: dict, **options):
    (found,) = load_records([written(root, [record])], **options)
    return found


def message_of(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_form_a(root):
    record = one(root, FORM_A)
    assert record.images[0].path == root / "images" / "a.png"
    assert record.messages == ({"role": "user", "content": "Effusion?"},)
    assert record.solution == FORM_A["solution"]
    assert record.columns == {k: FORM_A[k] for k in ("idx", "subject_id", "answer", "solution")}
    assert record.source.endswith("x.json record 0")


def test_form_b_takes_the_final_assistant_turn_as_solution(root):
    record = one(root, FORM_B)
    assert record.messages == ({"role": "user", "content": "Effusion?"},)
    assert record.solution == "<answer>no</answer>"
    assert record.columns == {"question": "Effusion?", "answer": "no", "solution": "<answer>no</answer>"}


def test_evaluation_item_asks_its_question_about_all_its_images(root):
    record = one(root, EVALUATION)
    assert [source.path.name for source in record.images] == ["a.png", "b.png"]
    assert record.messages == ({"role": "user", "content": "What changed?"},)
    assert record.solution == "<answer>opacity</answer>"
    assert record.columns == EVALUATION | {"solution": record.solution}


def test_system_and_earlier_turns_stay_in_the_prompt(root):
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant")]
    record = one(root, {"messages": turns, "images": []})
    assert list(record.messages) == turns[:-1]
    assert record.solution == "assistant"


def test_an_explicit_solution_wins_over_the_assistant_turn(root):
    assert one(root, FORM_B | {"solution": "s"}).solution == "s"


def test_base64_image_is_read_from_the_record_and_kept_out_of_the_columns(root):
    stream = io.BytesIO()
    Image.new("L", (3, 5)).save(stream, "PNG")
    record = one(root, FORM_B | {"image": "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()})
    assert open_image(record.images[0]).size == (3, 5)
    assert "image" not in record.columns


def test_json_lines_and_json_list_are_told_apart_by_content(root):
    lines = json.dumps(EVALUATION) + "\n\n" + json.dumps(FORM_A) + "\n"
    records = load_records([written(root, lines, "lines.json"), written(root, [FORM_B], "list.jsonl")])
    assert [record.columns.get("idx") for record in records] == [3, 7, None]
    assert records[1].source.endswith("lines.json record 1 (line 3)")


def test_line_separators_inside_a_text_do_not_end_a_json_line(root):
    line = json.dumps(FORM_A | {"solution": "one\u2028two\x85three"}, ensure_ascii=False)
    assert load_records([written(root, line)])[0].solution == "one\u2028two\x85three"


def test_nan_is_read_as_null(root):
    assert load_records([written(root, '[{"question": "a", "idx": NaN}]')])[0].columns["idx"] is None


def test_max_samples_counts_over_all_files(root):
    paths = [written(root, [FORM_A, FORM_B], "1.json"), written(root, [EVALUATION, FORM_A], "2.json")]
    assert [record.columns.get("idx") for record in load_records(paths, max_samples=3)] == [7, None, 3]


@pytest.mark.parametrize(
    ("asked", "there"), [("1000.json", "valid_sample_vqa_1000.json")] * 1 + [("valid_sample_vqa_5.json", "5.json")]
)
def test_both_names_of_a_sample_file_are_found(root, asked, there):
    path = written(root, [FORM_A], there)
    assert load_records([path.with_name(asked)])[0].source.startswith(str(path))


@pytest.mark.parametrize("text", ["a.png", "images/a.png", "../images/a.png", "./a.png"])
def test_paths_relative_to_the_image_folder_or_its_parent(root, text):
    assert one(root, FORM_A | {"images": [text]}).images[0].path == root / "images" / "a.png"


def test_absolute_path_inside_the_root_is_taken(root):
    path = str(root / "images" / "b.png")
    assert str(one(root, FORM_A | {"images": [path]}).images[0].path) == path


def test_the_image_root_flag_wins(root, tmp_path):
    (tmp_path / "other").mkdir()
    assert one(root, FORM_A, image_root=tmp_path / "other").images[0].path == tmp_path / "other" / "a.png"


@pytest.mark.parametrize("text", ["/etc/hosts", "../../secret.png", "../annotations/eval/x.json", "images/../../s.png"])
def test_a_path_that_leaves_the_image_root_is_refused(root, text):
    message = message_of(one, root, FORM_A | {"images": [text]})
    assert "record 0: field 'images'[0]" in message
    assert f"{text!r} leads outside the image root" in message


def test_a_link_that_leaves_the_image_root_is_refused(root, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    (root / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    assert "outside the image root" in message_of(one, root, FORM_A | {"images": ["link.png"]})


def test_an_image_id_cannot_leave_the_image_root(root):
    assert "outside the image root" in message_of(one, root, EVALUATION | {"image_ids": ["../annotations/x"]})


def test_an_image_root_that_is_itself_a_link_is_fine(root, tmp_path):
    (tmp_path / "link").symlink_to(root / "images")
    assert one(root, FORM_A, image_root=tmp_path / "link").images[0].path == root / "images" / "a.png"


def test_without_an_image_folder_the_flag_is_asked_for(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([FORM_A]))
    if any((parent / "images").is_dir() for parent in tmp_path.parents):
        pytest.skip("a folder above the temporary one holds images/")
    assert "pass --image_root" in message_of(load_records, [tmp_path / "x.json"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[\n{"question": "a"},\n{"question": }\n]', "malformed JSON at line 3, column 14"),
        ('{"question": "a"}\n{"question": "b"\n', "malformed JSON at line 2, column 17"),
        ("question,answer\n", "malformed JSON at line 1, column 1"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "holds no records"),
        ("", "holds no records"),
        ("\n \n", "holds no records"),
    ],
    ids=["list", "lines", "csv", "deep", "empty list", "empty", "blank"],
)
def test_a_bad_file_is_named_with_the_place(root, content, words):
    message = message_of(load_records, [written(root, content)])
    assert "x.json" in message
    assert words in message


def test_a_missing_file_a_folder_and_other_encodings_are_named(root):
    assert "gone.json does not exist" in message_of(load_records, [root / "gone.json"])
    assert "is a folder" in message_of(load_records, [root])
    (root / "latin.json").write_bytes(b'[{"question": "\xe9"}]')
    assert "latin.json is not UTF-8 text (byte 15)" in message_of(load_records, [root / "latin.json"])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([], "a record is an object, this one is a list"),
        ({}, "no field 'messages' nor 'question'"),
        ({"question": 5}, "field 'question' must be text, it is a number"),
        ({"messages": "hi"}, "field 'messages' must be a list of turns, it is a text"),
        ({"messages": []}, "field 'messages' has no user turn"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "field 'messages' has no user turn"),
        ({"messages": [{"role": "system", "content": "x"}]}, "field 'messages' has no user turn"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "turn 0: needs a role"),
        ({"messages": [{"role": "user"}]}, "turn 0: 'content' must be text, it is null"),
        (FORM_A | {"images": [3]}, "field 'images'[0] must be a path or base64 text, it is a number"),
        (FORM_A | {"images": [""]}, "field 'images'[0] must be a path or base64 text, it is an empty text"),
        (FORM_A | {"images": {"height": 9}}, "field 'images' must be a path or base64 text, it is an object"),
        (FORM_A | {"images": ["a\0.png"]}, "field 'images'[0]"),
        (FORM_B | {"image": "data:image/png;base64,@@"}, "field 'image': the image is not valid base64"),
        (FORM_A | {"solution": ["yes"]}, "field 'solution' must be text, it is a list"),
        (FORM_A | {"solution": "yes \udfff"}, "field 'solution' holds half a character, \\udfff after 4 characters"),
        ({"question": "\ud800"}, "field 'question' holds half a character, \\ud800 after 0 characters"),
        ({"messages": [{"role": "user", "content": "a\ud83d"}]}, "field 'messages' turn 0 holds half a character"),
    ],
)
def test_a_bad_record_is_named_with_its_field(root, record, words):
    message = message_of(one, root, record)
    assert "x.json record 0: " in message
    assert words in message


@pytest.mark.parametrize("value", ["missing", None, ""])
def test_a_missing_solution_matters_only_when_it_is_needed(root, value):
    record = {key: item for key, item in FORM_A.items() if key not in ("solution", "answer")}
    record |= {} if value == "missing" else {"solution": value}
    assert one(root, record).solution is None
    assert "field 'solution' is missing or empty" in message_of(one, root, record, require_solution=True)


def test_all_bad_records_are_counted_and_the_first_is_told(root):
    path = written(root, [FORM_A, {}, FORM_A | {"images": ["../../x.png"]}, FORM_B | {"messages": 1}])
    message = message_of(load_records, [path])
    assert "record 1: no field 'messages'" in message
    assert message.endswith("(and 2 more)")


def test_sound_records_pass_the_check(root):
    check_records(load_records([written(root, [FORM_A, FORM_B, EVALUATION])]))


@pytest.mark.parametrize("decode", [True, False])
def test_missing_truncated_and_foreign_images_are_all_found(root, decode):
    whole = (root / "images" / "a.png").read_bytes()
    (root / "images" / "cut.png").write_bytes(whole[:-20])
    (root / "images" / "text.png").write_text("not an image")
    names = ["a.png", "gone.png", "cut.png", "text.png", "gone.png"]
    records = load_records([written(root, [FORM_A | {"images": [name]} for name in names])])
    message = message_of(check_records, records, decode)
    assert "record 1: field 'images'[0]: image" in message
    assert "gone.png is missing" in message
    assert message.endswith("(and 3 more)")


@pytest.mark.parametrize(
    ("text", "images", "sound"),
    [
        ("no placeholder", 2, True),
        ("<image> then <image>", 2, True),
        ("<image_2> then <image_1>", 2, True),
        ("<|image_1|><|image_2|>", 2, True),
        ("<image>", 2, False),
        ("<image><image><image>", 2, False),
        ("<image_1> and <image_1>", 2, False),
        ("<image_3> and <image_1>", 2, False),
        ("<image>", 0, False),
    ],
)
def test_placeholders_name_each_image_once_or_are_left_out(root, text, images, sound):
    record = {"messages": [{"role": "user", "content": text}], "images": ["a.png", "b.png"][:images]}
    records = load_records([written(root, [record])])
    if sound:
        check_records(records)
    else:
        assert "field 'messages'" in message_of(check_records, records)


def test_placeholders_count_on_over_turns_and_only_in_user_turns():
    turns = [("system", "<image>"), ("user", "<image>"), ("assistant", "<image_9>"), ("user", "<image_5> <image>")]
    assert image_placeholders({"role": role, "content": text} for role, text in turns) == [1, 5, 3]


def test_a_character_that_json_escapes_as_a_pair_is_whole(root):
    assert one(root, {"question": "\U0001f600"}).messages[0]["content"] == "\U0001f600"
