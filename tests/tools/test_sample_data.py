"""Samples: quotas, difficulty, pools, leaks, and every refusal of tools.sample_data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest
from PIL import Image

from swift.llm.dataset import load_records
from swift.utils.logger import get_logger
from tools.sample_data import main

KINDS = ("plane", "presence", "size")


def item(number, kind="presence", patient=None, **fields):
    return {
        "idx": number,
        "subject_id": patient or f"p{number}",
        "study_id": f"s{number}",
        "question": f"Question {number}?",
        "image_ids": ["film"],
        "answer": ["yes"],
        "explanation": f"<think>Because of {number}.</think><answer>yes</answer>",
        "question_type": kind,
        **fields,
    }


def items(counts, start=0, **fields):
    """Items by kind, numbered from ``start``."""
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    return [item(start + number, kind, **fields) for number, kind in enumerate(kinds)]


class World:
    """A data folder with a film, evaluation questions about patient e1, and the command."""

    def __init__(self, folder, capsys):
        self.root, self.capsys = folder / "data", capsys
        (self.root / "images").mkdir(parents=True)
        Image.new("L", (32, 32)).save(self.root / "images" / "film.png")
        self.write("annotations/eval/test_basic_vqa.json", [item(900, patient="e1")])

    def write(self, name, value):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    def sample(self, *flags, pool=None, size=6):
        """Status of a run over the file ``pool``, or over the pools that ``flags`` name."""
        source = [] if pool is None else ["--source", pool]
        return main([str(word) for word in (*source, "--root", self.root, "--sizes", size, *flags)])

    def refusal(self, *flags, **more):
        assert self.sample(*flags, **more) == 2
        (line,) = self.capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert not list(self.root.glob("annotations/[!e]*/*")), "something was written in spite of the refusal"
        return line

    def records(self, policy="uniform", size=6):
        return json.loads((self.root / "annotations" / policy / f"{size}.json").read_text())

    def manifest(self, policy="uniform", size=6):
        return json.loads((self.root / "annotations" / policy / f"{size}.manifest.json").read_text())


@pytest.fixture
def world(tmp_path, capsys):
    return World(tmp_path, capsys)


def test_the_seed_decides(world):
    pool = world.write("pool.json", items({"plane": 20, "presence": 20}))
    texts = []
    for seed in (1, 1, 2):
        assert world.sample("--seeds", seed, "--overwrite", pool=pool) == 0
        path = world.root / "annotations" / "uniform"
        texts.append([(path / f"6{end}").read_bytes() for end in (".json", ".manifest.json")])
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[2][0]


def test_several_seeds_have_a_folder_each(world):
    pool = world.write("pool.json", items({"plane": 20, "presence": 20}))
    assert world.sample("--seeds", 0, 1, pool=pool) == 0
    zero, one = (world.records(f"uniform_seed{seed}") for seed in (0, 1))
    assert {row["idx"] for row in zero} != {row["idx"] for row in one}


def test_what_is_named_twice_is_drawn_once(world):
    pool = world.write("pool.json", items({"plane": 20, "presence": 20}))
    assert world.sample(6, "--seeds", 0, 0, "--policies", "uniform", "uniform", pool=pool) == 0
    assert world.manifest()["output"]["records"] == len(world.records()) == 6
    assert world.sample(6, "--seeds", 0, 1, 0, pool=pool) == 0
    assert len(world.records("uniform_seed1")) == 6


def test_form_a_as_training_reads_it(world):
    pool = world.write("pool.json", items({"plane": 3, "presence": 3}))
    assert world.sample(pool=pool) == 0
    first = world.records()[0]
    assert list(first) == ["images", "messages", "solution", "idx", "subject_id", "study_id", "answer",
                           "question", "question_type"]  # fmt: skip
    assert first["images"] == ["film.png"]
    assert first["messages"] == [{"role": "user", "content": "Question 0?"}]
    assert first["solution"] == "<think>Because of 0.</think><answer>yes</answer>"
    records = load_records([world.root / "annotations" / "uniform" / "6.json"], require_solution=True)
    assert [record.columns["idx"] for record in records] == list(range(6))


def test_all_three_forms_of_item_are_read(world):
    turns = [{"role": "user", "content": "B?"}, {"role": "assistant", "content": "Yes."}]
    forms = [
        item(0),
        {"idx": 1, "subject_id": "b", "question_type": "plane", "image": "film.png", "messages": turns},
        {"idx": 2, "subject_id": "c", "question_type": "plane", "images": ["film.png"], "messages": turns[:1],
         "solution": "No."},
    ]  # fmt: skip
    assert world.sample(pool=world.write("pool.json", forms), size=3) == 0
    rows = world.records(size=3)
    assert [row["images"] for row in rows] == [["film.png"]] * 3
    assert [row["messages"][-1]["content"] for row in rows] == ["Question 0?", "B?", "B?"]
    assert [row["solution"] for row in rows][1:] == ["Yes.", "No."]


def test_the_manifest_accounts_for_inputs_strata_and_output(world):
    pool = world.write("pool.json", items({"plane": 1, "presence": 9, "size": 9}))
    assert world.sample("--seeds", 7, pool=pool) == 0
    manifest = world.manifest()
    # Two each; plane has one, so presence and size, level otherwise, share its one: presence, by name, gets it.
    assert manifest["pools"]["source"]["strata"] == {
        "plane": {"wanted": 2, "available": 1, "taken": 1},
        "presence": {"wanted": 2, "available": 9, "taken": 3},
        "size": {"wanted": 2, "available": 9, "taken": 2},
    }
    assert manifest["seed"] == 7
    assert manifest["inputs"] == {str(pool): hashlib.sha256(pool.read_bytes()).hexdigest()}
    written = (world.root / "annotations" / "uniform" / "6.json").read_bytes()
    assert manifest["output"] == {"file": "6.json", "records": 6, "sha256": hashlib.sha256(written).hexdigest()}


def test_borrowing_is_said(world, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    pool = world.write("pool.json", items({"plane": 1, "presence": 9, "size": 9}))
    assert world.sample(pool=pool) == 0
    assert "uniform 6, pool source: 1 items borrowed from other strata" in caplog.text
    assert "plane has 1 of 2" in caplog.text


def test_proportional_quotas_follow_the_pool(world):
    pool = world.write("pool.json", items({"plane": 10, "presence": 30}))
    assert world.sample("--quotas", "proportional", pool=pool, size=8) == 0
    assert Counter(row["question_type"] for row in world.records(size=8)) == {"plane": 2, "presence": 6}


def test_strata_are_semantic_and_content_type_where_there_is_no_question_type(world):
    rows = [item(n, None, semantic_type="verify" if n % 2 else "query", content_type="size") for n in range(8)]
    assert world.sample(pool=world.write("pool.json", rows)) == 0
    assert world.manifest()["stratify"] == ["semantic_type", "content_type"]
    assert Counter(row["semantic_type"] for row in world.records()) == {"verify": 3, "query": 3}


@pytest.mark.parametrize("name", ["hard_uniform", "hard_sample"])
def test_hard_items_are_those_a_model_got_wrong(world, name):
    rows = items({"plane": 6, "presence": 6})
    for row in rows:
        row["is_correct"] = row["idx"] % 2 == 0
    assert world.sample("--policies", name, pool=world.write("pool.json", rows)) == 0
    assert [row["idx"] for row in world.records("hard_uniform")] == [1, 3, 5, 7, 9, 11]


def results(rows, **fields):
    return {"results": [{"idx": row["idx"], "question": row["question"], **fields} for row in rows]}


def test_difficulty_from_results_beats_the_items_own(world):
    rows = items({"plane": 4}, is_correct=True)
    document = results(rows)
    for result, right in zip(document["results"], (True, False, True, False), strict=True):
        result |= {"correct": {"answer_overlap": right, "substring": True}, "is_correct": True}
    file = world.write("r_results.json", document)
    pool = world.write("pool.json", rows)
    assert world.sample("--policies", "hard_random", "--results", file, pool=pool, size=2) == 0
    assert [row["idx"] for row in world.records("hard_random", 2)] == [1, 3]
    line = "hard_random: pool source has 0 hard items"
    world.root.joinpath("annotations/hard_random/2.json").unlink()
    world.root.joinpath("annotations/hard_random/2.manifest.json").unlink()
    world.capsys.readouterr()
    flags = ("--policies", "hard_random", "--results", file, "--rule", "substring")
    assert line in world.refusal(*flags, pool=pool, size=2)


@pytest.mark.parametrize("form", ["pass_rate", "by rule", "samples"])
def test_graded_difficulty_is_a_range_of_pass_rates(world, form):
    rows = items({"plane": 5})  # pass rates 0, 1/4, 1/2, 3/4, 1
    document = results(rows)
    for right, result in enumerate(document["results"]):
        verdicts = [{"text": "x", "correct": {"answer_overlap": n < right}} for n in range(4)]
        rate = right / 4 if form == "pass_rate" else {"answer_overlap": right / 4}
        result |= {"samples": verdicts} if form == "samples" else {"pass_rate": rate}
    flags = ("--policies", "hard_uniform", "--results", world.write("r_results.json", document))
    pool = world.write("pool.json", rows)
    assert world.sample(*flags, pool=pool, size=3) == 0
    assert [row["pass_rate"] for row in world.records("hard_uniform", 3)] == [0.0, 0.25, 0.5]
    assert world.sample(*flags, "--pass_rate", 0.2, 0.8, "--overwrite", pool=pool, size=3) == 0
    assert [row["idx"] for row in world.records("hard_uniform", 3)] == [1, 2, 3]


def test_pools_are_mixed_by_their_shares_and_a_question_comes_once(world):
    rows = items({"plane": 12})
    first = world.write("first.json", [row | {"explanation": "<answer>yes</answer>"} for row in rows])
    second = world.write("second.json", rows)
    assert world.sample("--pool", f"answer_first={first}:0.3", "--pool", f"think_first={second}:0.7", size=12) == 0
    records = world.records(size=12)
    # 3.6 and 8.4 of 12.
    assert Counter(row["pool"] for row in records) == {"answer_first": 4, "think_first": 8}
    assert sorted(row["idx"] for row in records) == list(range(12))
    assert world.manifest(size=12)["pools"]["answer_first"]["share"] == "3/10"


def test_shared_patients_are_refused_left_out_or_allowed(world):
    rows = [*items({"plane": 6}), item(6, "plane", patient="e1"), item(7, "plane", patient="e1")]
    pool = world.write("pool.json", rows)
    line = world.refusal(pool=pool)
    assert "2 of 8 items are about 1 patients of the evaluation" in line
    assert "--shared_patients exclude" in line
    assert world.sample("--shared_patients", "exclude", pool=pool) == 0
    assert {row["subject_id"] for row in world.records()} == {f"p{n}" for n in range(6)}
    assert world.sample("--shared_patients", "allow", pool=pool, size=8) == 0
    assert {"e1"} < {row["subject_id"] for row in world.records(size=8)}
    assert world.manifest(size=8)["shared_patients"] == "allow"


def test_patients_are_the_same_whether_written_as_number_or_text(world):
    world.write("annotations/eval/test_basic_vqa.json", [item(900, patient=17)])
    assert "patients of the evaluation" in world.refusal(pool=world.write("p.json", [item(0, patient="17")]), size=1)


def test_another_sample_is_not_overwritten_unasked(world):
    pool = world.write("pool.json", items({"plane": 20}))
    assert world.sample("--seeds", 1, pool=pool) == 0
    assert world.sample("--seeds", 1, pool=pool) == 0
    before = world.records()
    world.capsys.readouterr()
    assert world.sample("--seeds", 2, pool=pool) == 2
    assert "holds another sample; pass --overwrite" in world.capsys.readouterr().err
    assert world.records() == before


GOOD = [item(number) for number in range(6)]


def without(*fields):
    return [{name: value for name, value in row.items() if name not in fields} for row in GOOD]


@pytest.mark.parametrize(
    ("rows", "flags", "words"),
    [
        (GOOD, ["--sizes", 7], ["has 6 items for a sample of 7", "ask for fewer"]),
        (GOOD, ["--sizes", 0], ["--sizes must be 1 or more"]),
        (GOOD, ["--policies", "hard_uniform"], ["does not tell how hard its items are", "is_correct", "--results"]),
        (GOOD, ["--pool", "a=b.json:0.5"], ["--source", "--pool", "not both"]),
        (GOOD, ["--pass_rate", 0.7, 0.2], ["--pass_rate 0.7 0.2", "the lower first"]),
        (GOOD, ["--eval", "{root}/gone.json"], ["gone.json do not exist", "--eval", "allow"]),
        (GOOD, ["--stratify", "kind"], ["record 0", "field 'kind' is missing", "--stratify"]),
        (GOOD, ["--results", "{root}/gone.json"], ["result file", "gone.json cannot be read"]),
        (GOOD[:3] + GOOD[2:], [], ["record 3 is the same question as", "record 2 (idx 2)", "keep one"]),
        ([*GOOD[:5], item(5, "plane")], ["--strict"], ["has 1 of the 3 items of stratum 'plane'", "--strict"]),
        ([*GOOD[:5], GOOD[5] | {"is_correct": "no"}], [], ["record 0", "'is_correct' must be true or false"]),
        ([], [], ["leaves no items to choose from"]),
        (["text"], [], ["record 0", "a record is an object"]),
        (without("explanation", "answer"), [], ["record 0: field 'solution' is missing", "(and 5 more)"]),
        (without("subject_id"), [], ["record 0: field 'subject_id' is missing", "allow"]),
        (without("question_type"), [], ["not every item has question_type", "--stratify"]),
        ([GOOD[0] | {"image_ids": ["gone"]}], ["--sizes", 1], ["1.json record 0", "gone.png", "is missing"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value and isinstance(value[0], str) else "",
)
def test_a_refusal_names_what_and_how_to_fix_it(world, rows, flags, words):
    flags = [str(flag).format(root=world.root) for flag in flags]
    line = world.refusal(*flags, pool=world.write("pool.json", rows))
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        (["a={root}/p.json:0.5"], ["shares sum to 0.5", "must sum to 1"]),
        (["a={root}/p.json:0.5", "a={root}/p.json:0.5"], ["its own name"]),
        (["a={root}/p.json"], ["must be NAME=FILE:SHARE"]),
        (["a={root}/p.json:half"], ["must be NAME=FILE:SHARE"]),
        (["={root}/p.json:1"], ["must be NAME=FILE:SHARE"]),
        (["a={root}/gone.json:1"], ["gone.json does not exist"]),
        (["a={root}/p.json:0.5", "b={root}/q.json:0.5"], ["do not have the same fields to stratify by"]),
        (["a={root}/p.json:0.5", "b={root}/p.json:0.5"], ["pool b has 2 items for a sample of 4"]),
    ],
)
def test_pools_that_do_not_mix_are_refused(world, pools, words):
    world.write("p.json", GOOD)
    world.write("q.json", [row | {"semantic_type": "a", "content_type": "b"} for row in without("question_type")])
    flags = [word for pool in pools for word in ("--pool", pool.format(root=world.root))]
    line = world.refusal(*flags, size=8)  # of the six in both pools, a gives four
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("results_of_pool", "words"),
    [
        (results(GOOD[:5], is_correct=False), ["answer_overlap", "neither pass_rate, samples nor correct"]),
        (results(GOOD[:5], correct={"answer_overlap": False}), ["record 5", "say nothing of this question (idx 5)"]),
        (results(GOOD + GOOD[:1], pass_rate=0.5), ["result 6: question 0 comes twice"]),
        (results(GOOD, pass_rate=1.5), ["result 0", "neither pass_rate"]),
        (results(GOOD, samples=[{"text": "x"}]), ["result 0", "neither pass_rate, samples"]),
        ({"results": [{"question": "x", "pass_rate": 0}]}, ["result 0: field 'idx' is missing"]),
        ({"results": [{"idx": 0, "pass_rate": 0}]}, ["field 'question' is missing"]),
        ({"results": []}, ["no list 'results'"]),
    ],
    ids=["no verdict", "not all", "twice", "no share", "unjudged samples", "no idx", "no question", "empty"],
)
def test_results_that_do_not_tell_are_refused(world, results_of_pool, words):
    file = world.write("r_results.json", results_of_pool)
    flags = ("--policies", "hard_uniform", "--results", file)
    line = world.refusal(*flags, pool=world.write("pool.json", GOOD))
    assert all(word in line for word in words), line


def test_an_evaluation_file_without_patients_is_refused(world):
    world.write("annotations/eval/test_basic_vqa.json", without("subject_id"))
    assert "nobody knows which patient" in world.refusal(pool=world.write("pool.json", GOOD))


def test_the_published_rule_takes_is_correct_of_older_results(world):
    file = world.write("r_results.json", results(GOOD, is_correct=False))
    flags = ("--policies", "hard_uniform", "--rule", "substring", "--results", file)
    assert world.sample(*flags, pool=world.write("pool.json", GOOD)) == 0
