"""evaluate.py end to end on a policy with random weights and six drawn questions, and its parts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
from swift.evaluation.answering import (
    AnswerTask,
    Batching,
    answer_batches,
    automatic_batching,
    decoding_order,
    drawn,
    make_batches,
    read_ahead,
)
from swift.evaluation.controls import blank_images
from swift.evaluation.jobs import checkpoint_name
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import load_records
from swift.llm.images.source import ImageSource, open_image
from swift.llm.template.phi4 import Phi4Template
from tests.support.builders import random_image
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
    assert document["settings"]["max_new_tokens"] == 6
    assert document["extractor"].startswith("lexicon-")
    assert document["dynamic_hd"] == 4
    assert document["control"] == "none"
    assert document["prompt_example"] == "<|user|><|image_1|>Is there an effusion?<|end|><|assistant|>"


def test_what_differs_from_run_to_run_stands_in_a_file_of_its_own(sweep, world):
    assert not {"started", "seconds", "versions", "git", "arguments", "device"} & sweep["basic"].keys()
    run = json.loads((world / "result" / "policy_test_basic_vqa_checkpoint_results.run.json").read_text())["runs"][0]
    assert run["arguments"]["batch_size"] == "2"
    assert {"torch", "transformers"} <= run["versions"].keys()
    assert (run["questions"], run["part"], run["device"]) == (3, "1/1", "cpu")
    assert run["seconds"] > 0


def test_metrics_have_intervals_and_kinds_of_questions_are_told_apart(sweep):
    document = sweep["basic"]
    for name in ("accuracy", "answer_f1", "entity_precision", "relation_recall", "kg_jaccard", "hallucination"):
        value = document["metrics"][name]
        assert value["lo"] <= value["mean"] <= value["hi"], name
    for rule, accuracy in document["accuracies"].items():
        assert document["metrics"][rule]["mean"] == pytest.approx(accuracy)
        assert rule in document["rules"]
    assert document["by_type"]["semantic_type"]["verify"]["questions"] == 3
    assert document["by_type"]["content_type"]["presence"]["metrics"]["substring"] == document["metrics"]["substring"]


def test_single_file_mode_writes_one_file_and_heeds_max_samples(world, tmp_path):
    file = world / "annotations" / "eval" / "test_basic_vqa.json"
    flags = ["--annotation_file", str(file), "--img_root", str(world / "images"), "--max_samples", "1"]
    assert run(world, *flags, "--output_dir", str(tmp_path), "--max_new_tokens", "2", "--no_tqdm") == 0
    names = {path.name for path in tmp_path.iterdir()}
    written = tmp_path / "policy_test_basic_vqa_checkpoint_results.json"
    assert names == {written.name, "policy_test_basic_vqa_checkpoint_results.run.json"}
    assert len(json.loads(written.read_text(encoding="utf-8"))["results"]) == 1


def test_the_control_has_a_file_of_its_own_and_shows_other_images(world, tmp_path, sweep):
    flags = ["--annotation_file", str(world / "annotations" / "eval" / "test_region_vqa.json")]
    flags += ["--control", "shuffled", "--output_dir", str(tmp_path), "--max_new_tokens", "2", "--no_tqdm"]
    assert run(world, *flags) == 0
    document = json.loads((tmp_path / "policy_test_region_vqa_checkpoint_shuffled_results.json").read_text())
    shown = [Path(row["image_paths"][0]).stem for row in document["results"]]
    assert shown == ["tall", "small"]  # of two patients, each gets the other's
    assert [row["image_ids"] for row in document["results"]] == [["small"], ["tall"]]


def all_records(world):
    return load_records([world / "annotations" / "eval" / f"test_{group}_vqa.json" for group in GROUPS])


def answered(policy, words, records, task, batches):
    """Token ids of each sample by position."""
    found = [one for batch in answer_batches(policy, words, records, batches, task) for one in batch]
    return {one.index: [answer.token_ids for answer in one.answers] for one in found}


@pytest.mark.parametrize(("samples", "temperature"), [(1, 0.0), (3, 0.9)], ids=["greedy", "sampled"])
def test_batches_answer_as_one_question_at_a_time_does(world, template, samples, temperature):
    policy, words = template
    records = all_records(world)
    task = AnswerTask(drawn(words, 8, temperature), samples, seed=1)
    together = answered(policy, words, records, task, [decoding_order(words, records)])
    alone = answered(policy, words, records, task, [[index] for index in range(len(records))])
    assert together == alone
    assert sorted(together) == list(range(len(records)))
    assert len({ids for rows in alone.values() for ids in rows}) >= 5


def test_samples_are_a_function_of_the_seed_and_differ(world, template):
    policy, words = template
    records = all_records(world)

    def draw(seed):
        return answered(policy, words, records, AnswerTask(drawn(words, 8, 1.0), 4, seed), [[0, 1, 2]])

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len(set(draw(1)[0])) > 1


def test_prompts_read_ahead_come_in_order_and_errors_in_their_place(world, template):
    records = all_records(world)
    records[2] = replace(records[2], images=(ImageSource.from_path(world / "images" / "gone.png"),))
    batches = [[4, 0], [2, 1], [5, 6, 3]]
    seen = list(read_ahead(template[1], records, batches))
    assert [list(indexes) for indexes, _ in seen] == batches
    for indexes, prompts in seen:
        for index, prompt in zip(indexes, prompts, strict=True):
            if index == 2:
                assert "gone.png is missing" in str(prompt)
            else:
                assert prompt.input_ids.tolist() == template[1].encode_prompt(records[index]).input_ids.tolist()


def test_batches_hold_no_more_questions_and_tokens_than_they_may(world, template):
    records, words = all_records(world), template[1]
    order = decoding_order(words, records)
    lengths = [len(words.encode_prompt(record).input_ids) for record in records]
    by_count = make_batches(words, records, range(7), Batching(3), 10)
    assert by_count == [order[:3], order[3:6], order[6:]]
    limit = 2 * (max(lengths) + 100)
    by_tokens = make_batches(words, records, range(7), Batching(64, limit), 10)
    assert [index for batch in by_tokens for index in batch] == order
    assert 1 < len(by_tokens) < 7
    for batch in by_tokens:
        assert len(batch) * (max(lengths[index] for index in batch) + 10) <= limit
    assert make_batches(words, records, range(7), Batching(64, 1), 10) == [[index] for index in order]
    assert make_batches(words, records, [1, 4], Batching(64), 10) == [[index for index in order if index in (1, 4)]]


def test_an_automatic_batch_is_at_most_64_questions(template):
    batching = automatic_batching(template[0].model)
    assert batching.questions == 64
    assert batching.tokens > 10_000  # a model of a few million parameters


def test_decoding_starts_with_the_most_image_tokens_and_keeps_images_together(world, template):
    records = all_records(world)
    order = decoding_order(template[1], records)
    names = [" ".join(source.path.stem for source in records[index].images) for index in order]
    # grids of 56-pixel crops: wide 3 x 1, tall 1 x 2, small 1 x 1
    assert names == ["wide small", "tall small", "wide", "wide", "tall", "tall", "small"]
    encoded = [template[1].encode_prompt(records[index]) for index in order]
    tokens = [sum(image.num_tokens for image in prompt.images) for prompt in encoded]
    assert tokens == sorted(tokens, reverse=True)


def test_blank_images_are_evenly_grey_and_as_large(world):
    records = all_records(world)
    blank = blank_images(records)
    for before, after in zip(records, blank, strict=True):
        assert [open_image(one).size for one in after.images] == [open_image(one).size for one in before.images]
        assert replace(after, images=before.images) == before
        for source in after.images:
            assert open_image(source).getextrema() == ((128, 128),) * 3
    assert blank[0].images[0].key == blank[2].images[0].key  # of one size: decoded once


def test_the_blank_control_says_so(world, tmp_path):
    flags = ["--annotation_file", str(world / "annotations" / "eval" / "test_region_vqa.json"), "--control", "blank"]
    assert run(world, *flags, "--output_dir", str(tmp_path), "--max_new_tokens", "2", "--no_tqdm") == 0
    document = json.loads((tmp_path / "policy_test_region_vqa_checkpoint_blank_results.json").read_text())
    assert document["control"] == "blank"
    assert [row["image_paths"] for row in document["results"]] == [[None], [None]]


def test_samples_are_listed_and_scored_together(world, tmp_path):
    flags = ["--annotation_file", str(world / "annotations" / "eval" / "test_basic_vqa.json"), "--num_samples", "3"]
    flags += ["--temperature", "1", "--output_dir", str(tmp_path), "--max_new_tokens", "4", "--no_tqdm"]
    assert run(world, *flags) == 0
    document = json.loads((tmp_path / "policy_test_basic_vqa_checkpoint_sampled_results.json").read_text())
    for row in document["results"]:
        assert len(row["samples"]) == 3
        assert row["samples"][0]["generated_text"] == row["generated_text"]
        assert isinstance(row["majority_answer"], list)
    assert {"pass@1", "pass@2", "pass@3", "majority_vote", "pass@3_exact_set"} <= document["metrics"].keys()


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
        (["--control", "white"], ["--control", "shuffled"]),
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
        ({"answer": {"a": 7}}, ["record 1", "'answer'", "7"]),
        ({"image_ids": ["gone"]}, ["record 1", "gone.png is missing"]),
        ({"image_ids": ["cut"]}, ["record 1", "cut.png is truncated"]),
        ({"question": None}, ["record 1", "'question'"]),
        ({"question": "\ud800"}, ["record 1", "'question'", "half a character"]),
        ({"idx": 1}, ["record 1", "record 0", "'idx'"]),
        ({"idx": "1"}, ["record 1", "record 0", "'idx'"]),
        ({"idx": None, "id": 1}, ["record 1", "record 0", "'id'"]),
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
