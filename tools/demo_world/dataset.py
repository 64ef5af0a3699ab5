"""From patients to annotation files: the patients of the demo world, the questions about them, and their records."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tools.demo_world.canvas import USUAL_STYLE
from tools.demo_world.comparison import drafts_of_pair, further_of_pair
from tools.demo_world.facts import PREVALENCE, Study, first_study, next_study, overlook
from tools.demo_world.language import FactSentence, further
from tools.demo_world.phrasing import QUESTION_TEMPLATES
from tools.demo_world.questions import YES_NO, Draft, drafts_of

SPLITS = ("train", "valid", "test")
EVALUATION_FILES = {group: f"eval/test_{group}_vqa.json" for group in ("basic", "compare", "region")}
ASIDES = (0.4, 0.6)  # shares of the items for SFT without and with a sentence beside the point
IN_PROSE = 0.75  # usual share of the items for SFT that compare two images
USUAL_WORDING = 0.7
_PAIR_SHARE = {"train": 0.3, "valid": 0.3, "test": 0.67}
_REGION_SHARE = 0.35
_STREAM = 201

DemoRecord = dict[str, Any]
Drafts = dict[str, list[Draft]]  # by template


@dataclass(frozen=True)
class WorldConfig:
    """Size and kind of the world.

    Counts are per split (train, valid, test), or per image or pair of images (train, valid). ``prose`` is the share of
    the items for SFT about two images that are written without tags. ``prevalence`` is the chance of each finding and
    device in a first study. ``style`` names the drawing (`tools.demo_world.canvas`). If ``careless`` is above 0, there
    is a further file for SFT, careless.json, whose writer overlooks that share of the findings.
    """

    seed: int = 0
    patients: tuple[int, int, int] = (1000, 270, 150)
    questions: tuple[int, int] = (6, 4)
    pair_questions: tuple[int, int] = (4, 4)
    eval_questions: int = 200
    prose: float = IN_PROSE
    prevalence: float = PREVALENCE
    style: str = USUAL_STYLE
    careless: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The values as plain lists and numbers, for the manifest."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class World:
    """All studies, and the records of every annotation file by its path under ``annotations/``."""

    studies: tuple[Study, ...]
    files: dict[str, list[DemoRecord]]


class DraftChooser:
    """Picks drafts so that templates follow their weights and, within a topic, outcomes stay equally frequent."""

    def __init__(self) -> None:
        self._topics: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._templates: dict[str, Counter[str]] = defaultdict(Counter)

    def choose(self, drafts: Drafts, group: str, barred: set[str], rng: np.random.Generator) -> Draft | None:
        """The next draft of a group, from a template that is not barred. None if there is none."""
        names = [name for name in drafts if QUESTION_TEMPLATES[name].group == group and name not in barred]
        if not names:
            return None
        weights = np.array([QUESTION_TEMPLATES[name].weight for name in names])
        # A template whose fair outcomes this study cannot offer gives way to the next one.
        order = [names[i] for i in rng.choice(len(names), len(names), replace=False, p=weights / weights.sum())]
        best: list[tuple[float, Draft]] = []
        for name in order:
            ranks = [self._excess(draft) for draft in drafts[name]]
            rarest = [draft for draft, rank in zip(drafts[name], ranks, strict=True) if rank == min(ranks)]
            best.append((min(ranks)[0], rarest[rng.integers(len(rarest))]))
            if best[-1][0] <= 1:
                break
        chosen = min(best, key=lambda pair: pair[0])[1]
        self._topics[chosen.template, chosen.topic][chosen.outcome] += 1
        self._templates[chosen.template][chosen.outcome] += 1
        return chosen

    def _excess(self, draft: Draft) -> tuple[float, int]:
        """A draft's excess: uses of its outcome beyond a fair share within its topic (for yes and no, within its
        template too), then the uses of the topic."""
        topic = self._topics[draft.template, draft.topic]
        excess = topic[draft.outcome] - _fair_use(topic, draft.outcomes)
        if draft.outcomes == YES_NO:
            template = self._templates[draft.template]
            excess += template[draft.outcome] - _fair_use(template, YES_NO)
        return excess, sum(topic.values())


def _fair_use(used: Counter[str], outcomes: tuple[str, ...]) -> float:
    """The use of the rarest outcome if all outcomes are known beforehand, else the mean use of those that occurred."""
    if outcomes:
        return min(used[outcome] for outcome in outcomes)
    return sum(used.values()) / max(1, len(used))


def build_world(config: WorldConfig) -> World:
    """All studies and records, without the pictures. Equal configurations give equal worlds."""
    studies: list[Study] = []
    files: dict[str, list[DemoRecord]] = {}
    for split in SPLITS:
        patients = _patients(config, split, len(studies))
        files |= _ask(config, split, patients)
        studies += [study for visits in patients for study in visits]
    for idx, record in enumerate(record for records in files.values() for record in records):
        record["idx"] = idx
    return World(tuple(studies), files)


def _patients(config: WorldConfig, split: str, first_index: int) -> list[list[Study]]:
    """One or two studies per patient of a split."""
    number = SPLITS.index(split)
    before = sum(config.patients[:number])
    patients, index = [], first_index
    for patient in range(before, before + config.patients[number]):
        rng = np.random.default_rng([config.seed, _STREAM, number, patient])
        visits = [first_study(patient + 1, patient, index, rng, config.prevalence)]
        if rng.random() < _PAIR_SHARE[split]:
            visits.append(next_study(visits[0], index + 1, rng, config.prevalence))
        index += len(visits)
        patients.append(visits)
    return patients


def _ask(config: WorldConfig, split: str, patients: list[list[Study]]) -> dict[str, list[DemoRecord]]:
    """The records of a split by file."""
    rng = np.random.default_rng([config.seed, _STREAM + 1, SPLITS.index(split)])
    asker = _Asker(split, rng, config.prose)
    singles = [[study] for visits in patients for study in visits]
    pairs = [visits for visits in patients if len(visits) == 2]
    if split == "test":
        return {
            path: asker.spread(pairs if group == "compare" else singles, group, config.eval_questions)
            for group, path in EVALUATION_FILES.items()
        }
    write = _sft_record if split == "train" else _pool_record
    askers = {f"{split}.json": asker}
    if split == "train" and config.careless:
        rng = np.random.default_rng([config.seed, _STREAM + 2, SPLITS.index(split)])
        askers["careless.json"] = _Asker(split, rng, config.prose, config.careless)
    return {
        path: [write(record) for record in _ask_about_all(asker, config, split, patients)]
        for path, asker in askers.items()
    }


def _ask_about_all(asker: _Asker, config: WorldConfig, split: str, patients: list[list[Study]]) -> list[DemoRecord]:
    """Questions about each study, and about both studies of a patient."""
    number = SPLITS.index(split)
    records: list[DemoRecord] = []
    for visits in patients:
        for study in visits:
            records += asker.about([study], config.questions[number])
        if len(visits) == 2:
            records += asker.about(visits, config.pair_questions[number])
    return records


class _Asker:
    """Writer of questions about the studies of one split. It remembers its questions, so that answers stay balanced.

    A ``careless`` one asks about everything that is there, but answers by what it sees (`overlook`).
    """

    def __init__(self, split: str, rng: np.random.Generator, prose: float, careless: float = 0.0) -> None:
        self._split, self._rng, self._prose, self._careless = split, rng, prose, careless
        self._chooser = DraftChooser()

    def about(self, visits: list[Study], count: int) -> list[DemoRecord]:
        """Ask ``count`` questions about one study or one pair, each template at most once."""
        records: list[DemoRecord] = []
        barred: set[str] = set()
        drafts = self._drafts(visits)
        for _ in range(count):
            group = "compare" if len(visits) == 2 else "region" if self._rng.random() < _REGION_SHARE else "basic"
            records += self._one(visits, drafts, group, barred)
        return records

    def spread(self, subjects: list[list[Study]], group: str, count: int) -> list[DemoRecord]:
        """Ask ``count`` questions of a group about many subjects, as evenly as possible."""
        barred: list[set[str]] = [set() for _ in subjects]
        records: list[DemoRecord] = []
        while len(records) < count and subjects:
            before = len(records)
            for i in self._rng.permutation(len(subjects)):
                if len(records) < count:
                    records += self._one(subjects[i], self._drafts(subjects[i]), group, barred[i])
            if len(records) == before:
                break
        return records

    def _drafts(self, visits: list[Study]) -> Drafts:
        drafts: Drafts = defaultdict(list)
        for draft in drafts_of_pair(*visits) if len(visits) == 2 else drafts_of(visits[0], self._rng):
            drafts[draft.template].append(draft)
        return drafts

    def _one(self, visits: list[Study], drafts: Drafts, group: str, barred: set[str]) -> list[DemoRecord]:
        draft = self._chooser.choose(drafts, group, barred, self._rng)
        if draft is None:
            return []
        barred.add(draft.template)
        return [self._record(*(self._as_seen(visits, draft) if self._careless else (visits, draft)))]

    def _as_seen(self, visits: list[Study], draft: Draft) -> tuple[list[Study], Draft]:
        """The studies as a careless writer sees them, with the answer to the same question. A question that could not
        be asked about them, such as one about the side of a finding that was missed, keeps its true answer."""
        seen = [overlook(study, self._careless, self._rng) for study in visits]
        for other in self._drafts(seen).get(draft.template, ()):
            if (other.topic, other.slots) == (draft.topic, draft.slots):
                return seen, other
        return visits, draft

    def _record(self, visits: list[Study], draft: Draft) -> DemoRecord:
        """An evaluation item with every field. The other forms are made from it."""
        template, current = QUESTION_TEMPLATES[draft.template], visits[-1]
        wordings = template.phrasings(self._split)
        wording = wordings[self._rng.integers(len(wordings))]
        return {
            "idx": -1,
            "subject_id": current.subject_id,
            "study_id": current.study_id,
            "image_ids": [study.image_id for study in visits],
            "question": wording.format(**draft.slots),
            "answer": list(draft.answer),
            "explanation": self._explanation(visits, draft),
            "semantic_type": template.semantic_type,
            "content_type": template.content_type,
            "question_type": template.name,
            "answer_type": "binary" if template.semantic_type == "verify" else "list",
            "template": wording,
            "split": self._split,
        }

    def _explanation(self, visits: list[Study], draft: Draft) -> str:
        """Reasoning and answer. For SFT their form is as mixed as in collected data."""
        answer, training = ", ".join(draft.answer), self._split == "train"
        facts = [*draft.said, *(self._asides(visits, draft) if training else ())]
        thoughts = " ".join(map(self._word, facts))
        if training and len(visits) == 2 and self._rng.random() < self._prose:
            return f"{thoughts} So the answer is {answer}."
        return f"<think>{thoughts}</think><answer>{answer}</answer>"

    def _asides(self, visits: list[Study], draft: Draft) -> list[FactSentence]:
        """True facts that the answer does not need. SFT data is as wordy as the models that write it, while GRPO
        rewards short reasoning."""
        said = list(draft.said)
        others = further_of_pair(*visits, said) if len(visits) == 2 else further(visits[0], said)
        count = self._rng.choice(len(ASIDES), p=ASIDES)
        return [others[i] for i in self._rng.permutation(len(others))[:count]]

    def _word(self, fact: FactSentence) -> str:
        """One of the fact's wordings, mostly the first: each change of words costs a small model many examples."""
        if self._rng.random() < USUAL_WORDING:
            return fact.wordings[0]
        return fact.wordings[self._rng.integers(len(fact.wordings))]


def _trained_on(record: DemoRecord, messages: list[dict[str, str]]) -> DemoRecord:
    kept = {key: value for key, value in record.items() if key not in ("image_ids", "explanation", "idx")}
    images = [f"{image_id}.png" for image_id in record["image_ids"]]
    return {"idx": record["idx"], "images": images, "messages": messages, **kept}


def _sft_record(record: DemoRecord) -> DemoRecord:
    """Form B: the assistant's turn is the solution."""
    return _trained_on(
        record,
        [{"role": "user", "content": record["question"]}, {"role": "assistant", "content": record["explanation"]}],
    )


def _pool_record(record: DemoRecord) -> DemoRecord:
    """Form A: a prompt and its solution. Sampling policies choose from these."""
    pool = _trained_on(record, [{"role": "user", "content": record["question"]}])
    return {**pool, "solution": record["explanation"]}
