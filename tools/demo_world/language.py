"""Facts in words: every sentence that the reasoning may use, in the English of radiology reports.

A `FactSentence` is one fact with its few wordings. The wording is drawn when an item is written. Sentences without
"first image" or "second image" are about the only image of a study, or about the later of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tools.demo_world.facts import DEVICES, Finding, Region, Study

_ARTICLE = {
    "consolidation": "",
    "atelectasis": "",
    "cardiomegaly": "",
    "pulmonary edema": "",
    "endotracheal tube": "an ",
}
_RULED_OUT = ("pneumothorax", "pleural effusion", "consolidation", "cardiomegaly")


@dataclass(frozen=True)
class FactSentence:
    """One fact: its wordings, and the names of the things that it is about."""

    about: frozenset[str]
    wordings: tuple[str, ...]


def _sentence(about: str | frozenset[str], *wordings: str) -> FactSentence:
    names = frozenset({about}) if isinstance(about, str) else about
    return FactSentence(names, tuple(words[0].upper() + words[1:] for words in wordings))


def with_article(thing: str) -> str:
    """A finding or device as a noun phrase: "a nodule", "an endotracheal tube", "consolidation"."""
    return _ARTICLE.get(thing, "a ") + thing


@lru_cache
def finding_present(finding: Finding) -> FactSentence:
    """The finding with all its properties."""
    kind, side, zone, severity = finding.kind, finding.side, finding.zone, finding.severity
    article = with_article(kind).removesuffix(kind)
    if kind in ("pleural effusion", "pneumothorax"):
        wordings = (
            f"there is a {severity} {side} {kind}.",
            f"a {severity} {kind} is seen on the {side}.",
            f"{severity} {side} {kind} is present.",
        )
    elif kind in ("consolidation", "nodule"):
        wordings = (
            f"there is {article}{kind} in the {side} {zone} lung zone.",
            f"{article}{kind} is seen in the {side} {zone} lung zone.",
            f"{article}{kind} is present in the {side} {zone} lung zone.",
        )
    elif kind == "atelectasis":
        wordings = (
            f"there is linear atelectasis at the {side} lung base.",
            f"linear atelectasis is seen at the {side} lung base.",
            f"atelectasis is present at the {side} lung base.",
        )
    elif kind == "cardiomegaly":
        wordings = (
            f"there is {severity} cardiomegaly.",
            f"{severity} cardiomegaly is seen.",
            f"the heart is enlarged with {severity} cardiomegaly.",
        )
    else:
        wordings = (
            f"there is {severity} pulmonary edema.",
            f"{severity} pulmonary edema is seen.",
            f"{severity} pulmonary edema is present in both lungs.",
        )
    return _sentence(kind, *wordings)


def device_present(device: str) -> FactSentence:
    """A device and where it is."""
    if device == "pacemaker":
        return _sentence(
            device, "a left chest pacemaker is in place.", "there is a pacemaker in the left chest.",
            "a pacemaker is seen in the left chest.",
        )  # fmt: skip
    return _sentence(
        device, "an endotracheal tube is in place.", "there is an endotracheal tube in the trachea.",
        "an endotracheal tube is seen in the trachea.",
    )  # fmt: skip


def thing_present(study: Study, thing: str) -> FactSentence:
    """The sentence for a finding or device that the study shows."""
    finding = study.find(thing)
    return finding_present(finding) if finding else device_present(thing)


@lru_cache
def thing_absent(thing: str, region: Region | None = None) -> FactSentence:
    """Absence, of the whole image or in one region."""
    if thing == "cardiomegaly":
        return _sentence(
            thing, "the heart size is normal.", "heart size is normal.", "the cardiac silhouette is normal in size."
        )
    place = f" in the {region.name}" if region else ""
    return _sentence(
        thing, f"no {thing} is seen{place}.", f"there is no {thing}{place}.", f"there is no evidence of {thing}{place}."
    )


def none_of(things: tuple[str, ...], region: Region | None = None) -> FactSentence:
    """Two things both absent."""
    place = f" in the {region.name}" if region else ""
    listed = " or ".join(things)
    return _sentence(frozenset(things), f"no {listed} is seen{place}.", f"there is no {listed}{place}.")


def absent_on_side(kind: str, side: str) -> FactSentence:
    """Absence on one side."""
    return _sentence(kind, f"no {kind} is seen on the {side}.", f"there is no {kind} on the {side}.")


@lru_cache
def region_clear(region: Region) -> FactSentence:
    """Nothing abnormal in the region."""
    return _sentence(
        region.name, f"the {region.name} is clear.", f"no abnormality is seen in the {region.name}.",
        f"there is no abnormality in the {region.name}.",
    )  # fmt: skip


def all_clear() -> FactSentence:
    """A study without findings."""
    return _sentence("all", "no abnormality is seen.", "there is no abnormality.", "no finding is seen.")


def no_devices() -> FactSentence:
    """A study without devices."""
    return _sentence(frozenset(DEVICES), "no device is seen.", "there is no device in place.")


def a_view(view: str) -> str:
    """The view with its article: "an ap", "a pa"."""
    return f"an {view}" if view == "ap" else f"a {view}"


def view_sentence(view: str) -> FactSentence:
    """The projection."""
    return _sentence("view", f"this is {a_view(view)} view of the chest.", f"the image is a frontal {view} view.")


def sex_sentence(sex: str) -> FactSentence:
    """The sex, with the sign that shows it."""
    if sex == "f":
        return _sentence(
            "sex", "breast shadows are seen in this female patient.", "the patient is female with breast shadows."
        )
    return _sentence(
        "sex", "no breast shadows are seen in this male patient.", "the patient is male without breast shadows."
    )


def _named(finding: Finding) -> str:
    return f"{finding.side} {finding.kind}" if finding.side else finding.kind


def finding_new(finding: Finding) -> FactSentence:
    """Absent on the first image, present on the second."""
    name = _named(finding)
    return _sentence(finding.kind, f"the {name} is new on the second image.", f"there is new {name}.")


def finding_resolved(finding: Finding) -> FactSentence:
    """Present on the first image and absent on the second. The finding is the first image's."""
    name = _named(finding)
    return _sentence(finding.kind, f"the {name} has resolved on the second image.", f"the {name} has resolved.")


def finding_trend(finding: Finding, trend: str) -> FactSentence:
    """Present on both images. ``trend`` is increased, decreased or stable."""
    name = _named(finding)
    if trend == "stable":
        return _sentence(
            finding.kind, f"the {name} is stable in the interval.", f"the {name} is stable on the second image."
        )
    return _sentence(
        finding.kind, f"the {name} has {trend} in the interval.", f"the {name} has {trend} on the second image."
    )


def device_change(device: str, placed: bool) -> FactSentence:
    """A device that came or went between the images."""
    verb = "placed" if placed else "removed"
    return _sentence(
        device, f"the {device} has been {verb} in the interval.", f"the {device} was {verb} in the interval."
    )


def device_same(device: str, present: bool) -> FactSentence:
    """A device that is on both images or on neither."""
    if present:
        return _sentence(device, f"the {device} is seen on both images.", f"the {device} is present on both images.")
    return _sentence(device, f"no {device} is seen on either image.", f"there is no {device} on either image.")


def absent_on_both(kind: str) -> FactSentence:
    """A finding on neither image."""
    return _sentence(kind, f"no {kind} is seen on either image.", f"there is no {kind} on either image.")


def no_change(what: str) -> FactSentence:
    """Nothing new or nothing resolved. ``what`` is one of these two words."""
    if what == "new":
        return _sentence("change", "no new finding is seen on the second image.", "there is no new finding.")
    return _sentence("change", "no finding has resolved on the second image.", "no finding has resolved.")


def further(study: Study, said: list[FactSentence]) -> list[FactSentence]:
    """Facts of a study beside those ``said``: its findings, and findings that are often ruled out."""
    facts = [finding_present(finding) for finding in study.findings]
    facts += [thing_absent(kind) for kind in _RULED_OUT if not study.find(kind)]
    return unmentioned(facts, said)


def unmentioned(facts: list[FactSentence], said: list[FactSentence]) -> list[FactSentence]:
    """The facts about things that ``said`` does not mention."""
    mentioned = frozenset().union(*(sentence.about for sentence in said))
    return [fact for fact in facts if not fact.about & mentioned]
