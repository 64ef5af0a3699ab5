"""Findings of texts: polarity, sides, zones, severity, course and places, and what keeps them apart."""

from __future__ import annotations

import random
import time

import pytest

from ReXKG.finding_words import FindingWords
from ReXKG.findings import FindingReader, StatedFinding
from ReXKG.statements import answered_sentences, stating_sentences
from utils.get_knowledge_graph import extract_knowledge_graph


@pytest.fixture(scope="module")
def read():
    return FindingReader(extract_knowledge_graph)


def short(finding: StatedFinding) -> str:
    """A finding on one line: "+effusion left lower 1 new [places] earlier"."""
    parts = ["/".join(sorted(finding.sides)), "/".join(sorted(finding.zones)), str(finding.severity or "")]
    parts += [finding.course or "", "/".join(sorted(finding.places)), "earlier" if finding.is_earlier else ""]
    return " ".join([("+" if finding.present else "-") + finding.name, *filter(None, parts)])


# text, findings, reason
READINGS = [
    ("", [], "nothing"),
    ("asdf qwer.", [], "gibberish"),
    ("There is a small left pleural effusion.", ["+effusion left 1"], "all in one noun phrase"),
    ("A large pneumothorax is seen on the right.", ["+pneumothorax right 3"], "the side after the verb"),
    ("left effusion, no right effusion", ["+effusion left", "-effusion right"], "a graph merges these"),
    ("No left effusion, right effusion is small.", ["-effusion left", "+effusion right 1"], "and the other way round"),
    ("The left effusion is not seen, the right effusion is small.", ["-effusion left", "+effusion right 1"],
     "a denial after the finding ends before the next"),
    ("Left lower lobe consolidation and right upper lobe atelectasis.",
     ["+consolidation left lower", "+atelectasis right upper"], "both are located at a lobe"),
    ("Bilateral effusions.", ["+effusion left", "+effusion right"], "one per side"),
    ("No left or right effusion.", ["-effusion left/right"], "a denial stays one"),
    ("No pleural effusion or nodule is seen in the right mid lung zone.",
     ["-effusion right mid", "-nodule right mid"], "a list shares the place after it"),
    ("No effusion, nodule or mass on the left.", ["-effusion left", "-nodule left", "-mass left"], "all its members"),
    ("No pneumothorax or left effusion.", ["-pneumothorax", "-effusion left"], "but not the side of its last member"),
    ("A tube above the carina and a pacemaker in the left chest.", ["+tube carina", "+pacemaker left"],
     "each device has its own place"),
    ("Opacity in the left lower lobe, likely atelectasis.", ["+opacity left lower", "+atelectasis left lower"],
     "what an opacity suggests is where the opacity is"),
    ("The heart is mildly enlarged.", ["+cardiomegaly 1"], "a synonym"),
    ("The heart size is normal.", ["-cardiomegaly"], "a normal organ denies"),
    ("The cardiac silhouette is not enlarged.", ["-cardiomegaly"], "so does a denied state"),
    ("The lungs are clear and the heart size is normal.", ["-abnormality", "-cardiomegaly"], "each of its organ"),
    ("Normal heart size, clear lungs.", ["-cardiomegaly", "-abnormality"], "an adjective before its organ"),
    ("The right lower lung zone is clear.", ["-abnormality right lower"], "with its place"),
    ("The right pneumothorax has resolved.", ["-pneumothorax right resolved"], "gone since the last image"),
    ("No finding has resolved.", ["-abnormality unresolved"], "which denies no finding"),
    ("No new nodule is seen.", ["-nodule new"], "only new ones are denied"),
    ("The effusion has increased.", ["+effusion increased"], "a course"),
    ("The pneumothorax has not increased.", ["+pneumothorax"], "a denied course is none"),
    ("The first image shows a small effusion.", ["+effusion 1 earlier"], "said of an earlier image"),
    ("Compared with the first image, the effusion is stable.", ["+effusion stable"], "only compared with it"),
    ("The endotracheal tube is 4 cm above the carina.", ["+endotracheal tube carina"], "a device and its place"),
    ("ETT in the trachea.", ["+endotracheal tube"], "its abbreviation, where such a tube always is"),
    ("Edema is present in both lungs.", ["+edema"], "where it is unless a side is said"),
    ("The pacemaker has been removed.", ["-pacemaker resolved"], "a device that went"),
    ("There is an effusion. The effusion is small. It is on the left.", ["+effusion 1"], "later statements add"),
    ("Is there a nodule?", [], "a question states nothing"),
    ("Is there a nodule? The lungs are clear. So no.", ["-nodule", "-abnormality"], "an answer further on denies"),
    ("No mass;**nodule** on the left.", ["-mass", "+nodule left"], "marks are no part of a word"),
    ("So the answer is edema.", [], "neither does the announcement of the answer"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "reason"), READINGS)
def test_a_text_is_read_as_findings(read, text, expected, reason):
    assert [short(finding) for finding in read([text])[0].findings] == expected, reason


def test_readings_come_in_the_order_of_the_texts(read):
    texts = [text for text, *_ in READINGS]
    random.Random(0).shuffle(texts)
    together = read(texts)
    assert together == [FindingReader(extract_knowledge_graph)([text])[0] for text in texts]


def test_a_statement_in_the_same_words_is_counted_and_not_merged(read):
    reading = read(["There is an effusion. There is an effusion. Edema is seen."])[0]
    assert reading.repeated == 1
    assert [finding.name for finding in reading.findings] == ["effusion", "edema"]


def test_a_question_says_nothing_without_an_answer():
    assert answered_sentences("Is there an effusion? Where is it?") == []
    for answer in ("No.", "Yes, on the left.", "Not seen.", "None is seen.", "It is absent."):
        assert "effusion" in " ".join(answered_sentences(f"Is there an effusion? {answer}")).lower()
    assert answered_sentences("Is there an effusion? No nodule is seen.") == ["No nodule is seen"]


def test_an_extractor_that_reads_questions_gets_them_with_their_answers():
    asked = "Is there an effusion? The angles are sharp. So the answer is no. Is it large?"
    assert stating_sentences(asked) == [
        "Is there an effusion? So the answer is no ; The angles are sharp",
        "Is it large?",
    ]
    assert stating_sentences("The edema has resolved. So the answer is edema.") == ["The edema has resolved"]


def test_the_extractor_reads_each_statement_once():
    asked: list[str] = []

    def extract(texts):
        asked.extend(texts)
        return extract_knowledge_graph(texts)

    read = FindingReader(extract)
    read(["There is edema. No nodule.", "No nodule."])
    read(["There is edema."])
    assert asked == ["There is edema", "No nodule"]


@pytest.mark.parametrize(
    "part", ["effusion ", "no ", "left effusion, no right effusion, ", "? ", "a?b ", "heart normal "]
)
def test_hostile_text_takes_linear_time(read, part):
    def seconds(count: int) -> float:
        start = time.perf_counter()
        read([part * count + str(count)])
        return time.perf_counter() - start

    seconds(10)
    short_time, long_time = seconds(2_000), seconds(16_000)
    assert long_time < 40 * short_time + 0.5  # linear would be 8 times, quadratic 64 times


def test_a_damaged_file_of_words_is_named(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("side\tleft\tleft\nwrong\tx\ty\n")
    with pytest.raises(ValueError, match=r"words.tsv, line 2: .*is not kind<TAB>value<TAB>phrases; kinds: name, side"):
        FindingWords(path)
