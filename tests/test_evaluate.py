"""evaluate.py end to end on a policy with random weights and six drawn questions, and its parts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
from swift.cli.evaluation import EvaluationArguments, Evaluator, checkpoint_name, read_questions
from swift.llm.controls import shuffle_images
from swift.llm.dataset import Record, load_records
from swift.llm.images import ImageSource
from swift.llm.model import load_policy
from swift.llm.template import Phi4Template
from swift.trainers.inference import answer_records, decoding_order, greedy
from swift.utils.errors import UserError
from tests.builders import random_image
from tools.demo_world.policy import write_policy

GROUPS = ("basic", "compare", "region")


def item(idx, patient, images, answer=("yes",), question="Is there an effusion?"):
    return {
        "idx": idx,
        "subject_id": patient,
        "study_id": f"s{patient}",
        "image_ids": images,
        "question": question,
        "answer": list(answer),
        "explanation": f"<think>There is an effusion.</think><answer>{', '.join(answer)}</answer>",
        "semantic_type": "verify",
        "content_type": "presence",
    }


ITEMS = {
    "basic": [
        item(1, "a", ["wide"]),
        item(2, "b", ["tall"], question="Is there a very large pleural effusion or a nodule in this image?"),
        item(3, "a", ["wide"], answer=(), question="List all findings."),
    ],
    "compare": [item(4, "a", ["wide", "small"]), item(5, "b", ["tall", "small"])],
    "region": [item(6, "b", ["small"]), item(7, "c", ["tall"])],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data folder with the three evaluation files, and a policy beside it."""
    folder = tmp_path_factory.mktemp("with space") / "world"
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in {"wide": (150, 56), "tall": (56, 112), "small": (50, 50)}.items():
        random_image(generator, size).save(folder / "images" / f"{name}.png")
    for group, items in ITEMS.items():
        file = folder / "annotations" / "eval" / f"test_{group}_vqa.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(items), encoding="utf-8")
    write_policy(folder / "policy", [one["explanation"] for items in ITEMS.values() for one in items])
    return folder


@pytest.fixture(scope="module")
def sweep(world):
    """The documents that one sweep wrote, by group."""
    output = world / "result"
    flags = ["--batch_size", "2", "--max_new_tokens", "6", "--no_tqdm"]
    assert run(world, "--output_dir", str(output), *flags) == 0
    return {
        group: json.loads((output / f"policy_test_{group}_vqa_checkpoint_results.json").read_text(encoding="utf-8"))
        for group in GROUPS
    }


def run(world, *flags):
    return evaluate.main(["--model_path", str(world / "policy"), "--dataset_folder", str(world), *flags])


@pytest.fixture(scope="module")
def template(world):
    policy = load_policy(world / "policy")
    for name, weight in policy.model.model.layers.named_parameters():
        if "proj" in name:
            weight.mul_(8)  # with weights as small as they start, every answer repeats its own last token
    return policy, Phi4Template(
        policy.tokenizer, policy.image_processor, policy.model.config.vision_config.image_token_id
    )


def test_results_keep_the_order_and_every_field_of_the_file(sweep):
    for group in GROUPS:
        results = sweep[group]["results"]
        assert [{name: row[name] for name in ITEMS[group][0]} for row in results] == ITEMS[group]
        assert [row["id"] for row in results] == [one["idx"] for one in ITEMS[group]]


def test_rows_say_what_was_generated_and_shown(sweep, world):
    row = sweep["compare"]["results"][1]
    assert row["image_paths"] == [str(world.resolve() / "images" / f"{name}.png") for name in ("tall", "small")]
    assert isinstance(row["generated_text"], str)
    assert 1 <= row["num_tokens"] <= 6
    assert row["is_correct"] == row["correct"]["substring"]


def test_accuracies_are_means_of_the_rows(sweep):
    document = sweep["basic"]
    for rule, accuracy in document["accuracies"].items():
        assert accuracy == pytest.approx(sum(row["correct"][rule] for row in document["results"]) / 3)
    assert document["accuracy"] == document["accuracies"]["substring"]
    assert document["num_samples"] == 3


def test_documents_say_how_they_came_about(sweep):
    document = sweep["region"]
    assert document["dataset"] == "test_region_vqa"
    assert document["checkpoint"] == "policy"
    assert document["accuracy_rule"] == "substring"
    assert document["arguments"]["max_new_tokens"] == 6
    assert document["extractor"].startswith("lexicon-")
    assert {"torch", "transformers"} <= document["versions"].keys()
    assert document["dynamic_hd"] == 4
    assert document["control"] == "none"
    assert document["prompt_example"] == "<|user|><|image_1|>Is there an effusion?<|end|><|assistant|>"


def test_single_file_mode_writes_one_file_and_heeds_max_samples(world, tmp_path):
    file = world / "annotations" / "eval" / "test_basic_vqa.json"
    flags = ["--annotation_file", str(file), "--img_root", str(world / "images"), "--max_samples", "1"]
    assert run(world, *flags, "--output_dir", str(tmp_path), "--max_new_tokens", "2", "--no_tqdm") == 0
    (written,) = tmp_path.iterdir()
    assert written.name == "policy_test_basic_vqa_checkpoint_results.json"
    assert len(json.loads(written.read_text(encoding="utf-8"))["results"]) == 1


def test_the_control_has_a_file_of_its_own_and_shows_other_images(world, tmp_path, sweep):
    flags = ["--annotation_file", str(world / "annotations" / "eval" / "test_region_vqa.json")]
    flags += ["--control", "shuffled", "--output_dir", str(tmp_path), "--max_new_tokens", "2", "--no_tqdm"]
    assert run(world, *flags) == 0
    document = json.loads((tmp_path / "policy_test_region_vqa_checkpoint_shuffled_results.json").read_text())
    shown = [Path(row["image_paths"][0]).stem for row in document["results"]]
    assert shown == ["tall", "small"]  # of two patients, each gets the other's
    assert [row["image_ids"] for row in document["results"]] == [["small"], ["tall"]]


def test_batches_answer_as_one_question_at_a_time_does(world, template):
    policy, words = template
    records = load_records([world / "annotations" / "eval" / f"test_{group}_vqa.json" for group in GROUPS])
    sampling = greedy(words, 8)
    together = {answer.index: answer for answer in answer_records(policy, words, records, sampling, batch_size=7)}
    alone = {answer.index: answer for answer in answer_records(policy, words, records, sampling, batch_size=1)}
    assert together == alone
    assert sorted(together) == list(range(len(records)))
    assert len({answer.token_ids for answer in alone.values()}) >= 5


def test_answers_come_back_in_the_order_of_the_questions(world):
    arguments = EvaluationArguments(str(world / "policy"), dataset_folder=str(world), max_new_tokens=1, no_tqdm=True)
    evaluator = Evaluator(arguments)
    for questions in read_questions(arguments):
        assert [answer.index for answer in evaluator.answer(questions)] == list(range(len(questions.records)))


def test_decoding_starts_with_the_most_image_tokens_and_keeps_images_together(world, template):
    records = load_records([world / "annotations" / "eval" / f"test_{group}_vqa.json" for group in GROUPS])
    order = decoding_order(records, template[1])
    names = [" ".join(source.path.stem for source in records[index].images) for index in order]
    # grids of 56-pixel crops: wide 3 x 1, tall 1 x 2, small 1 x 1
    assert names == ["wide small", "tall small", "wide", "wide", "tall", "tall", "small"]
    encoded = [template[1].encode_prompt(records[index]) for index in order]
    tokens = [sum(image.num_tokens for image in prompt.images) for prompt in encoded]
    assert tokens == sorted(tokens, reverse=True)


def record(patient, *images, columns=None):
    sources = tuple(ImageSource.from_path(f"{name}.png") for name in images)
    columns = {"subject_id": patient} if columns is None else columns
    return Record(sources, ({"role": "user", "content": "?"},), None, columns, f"file record {patient}")


def shown(records):
    return [tuple(source.name for source in one.images) for one in records]


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_gives_every_question_another_patients_images_and_loses_none(seed):
    rng = np.random.default_rng(seed)
    records = [record(p := int(rng.integers(6)), f"{p}-{n}") for n in range(30)]
    records += [record(p := int(rng.integers(6)), f"{p}-{n}-a", f"{p}-{n}-b") for n in range(20)]
    shuffled = shuffle_images(records, seed)
    for before, after, images in zip(records, shuffled, shown(shuffled), strict=True):
        assert len(images) == len(before.images)
        assert not images[0].startswith(f"{before.columns['subject_id']}-")
        assert replace(after, images=before.images) == before
    assert sorted(shown(shuffled)) == sorted(shown(records))


def test_shuffling_is_a_function_of_the_seed():
    records = [record(n, str(n)) for n in range(20)]
    assert shown(shuffle_images(records, 1)) == shown(shuffle_images(records, 1))
    assert shown(shuffle_images(records, 1)) != shown(shuffle_images(records, 2))


def test_without_a_subject_the_images_tell_patients_apart():
    shuffled = shuffle_images([record(0, name, columns={}) for name in "aabb"], 0)
    assert shown(shuffled) == [("b.png",), ("b.png",), ("a.png",), ("a.png",)]


def test_questions_without_images_stay_as_they_are():
    records = [record("a"), record("a")]
    assert shuffle_images(records, 0) == records


def test_one_patient_cannot_be_shuffled():
    with pytest.raises(UserError, match=r"2 of 3 questions.*take more records"):
        shuffle_images([record("a", "1"), record("a", "2"), record("b", "3")], 0)


@pytest.mark.parametrize(
    ("path", "name"), [("checkpoints/sft", "sft"), ("output/grpo/checkpoint-30", "grpo-checkpoint-30")]
)
def test_a_checkpoint_of_a_run_is_named_after_both(path, name):
    assert checkpoint_name(Path(path)) == name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch_sise", "2"], ["--batch_sise", "--batch_size"]),
        (["--batch_size", "0"], ["--batch_size 0", "1 or more"]),
        (["--control", "blank"], ["--control", "shuffled"]),
        (["--model_path", "nowhere"], ["nowhere", "does not exist"]),
        (["--dataset_folder", "nowhere"], ["test_basic_vqa.json", "--annotation_file"]),
        (["--annotation_file", "nowhere.json"], ["nowhere.json", "does not exist"]),
        (["--img_root", "nowhere"], ["image root nowhere", "not a folder"]),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(world, capsys, flags, words):
    assert run(world, *flags) == 2
    assert_one_line(capsys, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": None, "explanation": None}, ["record 1", "'answer'"]),
        ({"answer": 7}, ["record 1", "'answer'", "7"]),
        ({"image_ids": ["gone"]}, ["record 1", "gone.png is missing"]),
        ({"image_ids": ["cut"]}, ["record 1", "cut.png is truncated"]),
        ({"question": None}, ["record 1", "'question'"]),
    ],
)
def test_bad_records_are_found_before_a_model_is_loaded(tmp_path, capsys, change, words):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("not a model")
    (tmp_path / "images").mkdir()
    picture = tmp_path / "images" / "fine.png"
    Image.new("L", (112, 112)).save(picture)
    (tmp_path / "images" / "cut.png").write_bytes(picture.read_bytes()[:-20])
    file = tmp_path / "questions.json"
    file.write_text(json.dumps([item(1, "a", ["fine"]), item(2, "b", ["fine"]) | change]))
    assert run(tmp_path, "--annotation_file", str(file)) == 2
    assert_one_line(capsys, [str(file), *words])


def assert_one_line(capsys, words):
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line
