"""Statements held against the facts of a drawn study: every verdict here was derived by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments.claim.truth import Judgment, judge_reasonings, read_studies
from swift.utils.errors import UserError
from tests.support.demo_records import solution
from tools.demo_world.build import KIND, VERSION
from tools.demo_world.dataset import World, WorldConfig, build_world
from tools.demo_world.facts import Finding, Study
from utils.get_knowledge_graph import finding_reader

CONFIG = WorldConfig(seed=5, patients=(40, 10, 60), eval_questions=100)
ILL = Study(
    "demo-1", "demo-1-s1", "demo-1-s1-frontal", 0, 0, "ap", "f",
    (
        Finding("pleural effusion", "left", "lower", "large"),
        Finding("nodule", "right", "upper"),
        Finding("cardiomegaly", severity="mild"),
    ),
    ("pacemaker",),
)  # fmt: skip
TRUE, FALSE, INVENTED, UNJUDGED = "true", "false", "invented", "unjudged"

STATEMENTS = [
    ("There is a large left pleural effusion.", TRUE),
    ("There is a small left pleural effusion.", FALSE),
    ("There is a large right pleural effusion.", FALSE),
    ("Pleural effusion is seen on the left.", TRUE),
    ("There is pleural effusion in the left mid lung zone.", TRUE),  # a large one reaches it
    ("There is pleural effusion in the left upper lung zone.", FALSE),
    ("There is a small nodule in the right upper lung zone.", TRUE),  # nodules have no size that could be wrong
    ("There is a nodule in the right lower lung zone.", FALSE),
    ("There is a nodule in the left upper lung zone.", FALSE),
    ("There is a small right pneumothorax.", INVENTED),
    ("There is severe pulmonary edema.", INVENTED),
    ("There is mild cardiomegaly.", TRUE),
    ("There is severe cardiomegaly.", FALSE),
    ("The heart size is normal.", FALSE),
    ("A left chest pacemaker is in place.", TRUE),
    ("A right chest pacemaker is in place.", FALSE),
    ("An endotracheal tube is in place.", INVENTED),
    ("No endotracheal tube is seen.", TRUE),
    ("No device is seen.", FALSE),
    ("No pneumothorax is seen.", TRUE),
    ("No nodule is seen.", FALSE),
    ("No nodule is seen on the left.", TRUE),
    ("There is no nodule in the right upper lung zone.", FALSE),
    ("There is no severe cardiomegaly.", TRUE),
    ("No abnormality is seen.", FALSE),
    ("The left lung is clear.", FALSE),
    ("The left upper lung zone is clear.", TRUE),
    ("The left mid lung zone is clear.", FALSE),
    ("No abnormality is seen in the right mid lung zone.", TRUE),
    ("This is an ap view of the chest.", TRUE),
    ("The image is a frontal pa view.", FALSE),
    ("Breast shadows are seen in this female patient.", TRUE),
    ("The patient is male without breast shadows.", FALSE),
    ("There is a rib fracture.", UNJUDGED),
    ("The pleural effusion is new on the second image.", UNJUDGED),
    ("The film is of good quality.", UNJUDGED),
]


def judge(text: str, study: Study = ILL) -> Judgment:
    (judgment,) = judge_reasonings([text], [study], finding_reader())
    return judgment


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(CONFIG)


@pytest.mark.parametrize(("statement", "verdict"), STATEMENTS)
def test_a_statement_has_the_verdict_of_the_facts(lexicon: None, statement: str, verdict: str) -> None:
    judgment = judge(f"<think>{statement}</think><answer>yes</answer>")
    assert (judgment.true, judgment.false, judgment.unjudged) == (
        int(verdict == TRUE), int(verdict in (FALSE, INVENTED)), int(verdict == UNJUDGED),
    )  # fmt: skip
    assert judgment.invented == (verdict == INVENTED)


def test_claims_are_counted_one_by_one(lexicon: None) -> None:
    """True: effusion, ap, no edema. False: nodule on the left (asserted, and there is one elsewhere), male."""
    text = (
        "<think>There is a large left pleural effusion. No pulmonary edema is seen. This is an ap view of the chest. "
        "There is a nodule in the left lung. The patient is male without breast shadows.</think><answer>no</answer>"
    )
    assert judge(text) == Judgment(true=3, false=2, asserted=2, invented=0, unjudged=0)


def test_saying_it_twice_counts_once(lexicon: None) -> None:
    once = judge("<think>There is mild cardiomegaly.</think><answer></answer>")
    assert judge("<think>There is mild cardiomegaly. There is mild cardiomegaly.</think><answer></answer>") == once


def test_reasoning_is_sound_if_it_says_something_true_and_nothing_false(lexicon: None) -> None:
    """Silence is not sound, or a policy that stops reasoning would be the most truthful."""
    assert judge("<think>There is mild cardiomegaly.</think><answer></answer>").is_sound
    assert not judge("<think>There is mild cardiomegaly. There is a pneumothorax.</think><answer></answer>").is_sound
    assert not judge("<think></think><answer>yes</answer>").is_sound
    assert not judge("<think>The film is of good quality.</think><answer>yes</answer>").is_sound


def test_both_of_a_pair_cannot_both_be_true(lexicon: None) -> None:
    both = judge("<think>This is an ap view of the chest. The image is a frontal pa view.</think><answer>ap</answer>")
    assert (both.true, both.false) == (1, 1)


def single_questions(world: World) -> tuple[list[str], list[Study]]:
    """Reference texts about one image, and their studies."""
    studies = {f"{study.image_id}.png": study for study in world.studies}
    records = [record for records in world.files.values() for record in records]
    images = [record.get("images") or [f"{name}.png" for name in record["image_ids"]] for record in records]
    single = [(record, names[0]) for record, names in zip(records, images, strict=True) if len(names) == 1]
    return [solution(record) for record, _ in single], [studies[name] for _, name in single]


def test_every_reference_of_the_world_is_true(lexicon: None, world: World) -> None:
    judgments = judge_reasonings(*single_questions(world), finding_reader())
    assert len(judgments) > 400
    assert all(judgment.is_sound and judgment.unjudged == 0 for judgment in judgments)


def test_references_of_other_patients_are_mostly_false(lexicon: None, world: World) -> None:
    texts, studies = single_questions(world)
    others = studies[len(studies) // 2 :] + studies[: len(studies) // 2]
    assert not any(own.subject_id == other.subject_id for own, other in zip(studies, others, strict=True))
    judgments = judge_reasonings(texts, others, finding_reader())
    true, judged = sum(j.true for j in judgments), sum(j.true + j.false for j in judgments)
    assert true / judged < 0.5
    asserted, invented = sum(j.asserted for j in judgments), sum(j.invented for j in judgments)
    assert invented / asserted > 0.5  # a kind is in a third of the studies


def test_the_studies_of_a_world_are_rebuilt_from_its_manifest(tmp_path: Path, world: World) -> None:
    manifest = {"kind": KIND, "version": VERSION, "arguments": CONFIG.as_dict()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert list(read_studies(tmp_path).values()) == list(world.studies)


def test_a_world_of_before_there_were_kinds_is_the_usual_one(tmp_path: Path, world: World) -> None:
    arguments = {name: asdict(CONFIG)[name] for name in ("seed", "patients", "eval_questions")}
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": KIND, "version": VERSION, "arguments": arguments}))
    assert list(read_studies(tmp_path).values()) == list(world.studies)


@pytest.mark.parametrize("manifest", [{"kind": KIND, "version": VERSION - 1}, {"kind": "a web page"}])
def test_facts_of_another_kind_of_world_are_refused(tmp_path: Path, manifest: dict) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json: it is of .*; make the world again"):
        read_studies(tmp_path)
