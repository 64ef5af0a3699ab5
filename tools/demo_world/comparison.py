"""Questions about two consecutive studies of a patient, the earlier image first."""

from __future__ import annotations

from collections.abc import Iterator

from tools.demo_world import language
from tools.demo_world.facts import DEVICES, FINDING_KINDS, Study
from tools.demo_world.language import FactSentence, with_article
from tools.demo_world.questions import MAX_LISTED, Draft, verify

_TRENDS = ("increased", "decreased", "stable")


def change_of(before: Study, after: Study, kind: str) -> str | None:
    """new, resolved, increased, decreased or stable. None if neither study shows the finding."""
    old, new = before.find(kind), after.find(kind)
    if old is None or new is None:
        return "new" if new else "resolved" if old else None
    if new.rank == old.rank:
        return "stable"
    return "increased" if new.rank > old.rank else "decreased"


def _change_sentence(before: Study, after: Study, kind: str) -> FactSentence:
    change = change_of(before, after, kind)
    if change is None:
        return language.absent_on_both(kind)
    if change == "new":
        return language.finding_new(after.find(kind))
    if change == "resolved":
        return language.finding_resolved(before.find(kind))
    return language.finding_trend(after.find(kind), change)


def _device_sentence(before: Study, after: Study, device: str) -> FactSentence:
    was, present = before.shows(device), after.shows(device)
    return language.device_same(device, present) if was == present else language.device_change(device, placed=present)


def _trends(before: Study, after: Study) -> Iterator[Draft]:
    for kind in FINDING_KINDS:
        change = change_of(before, after, kind)
        if change is None:
            continue
        said = _change_sentence(before, after, kind)
        slots = {"kind": kind}
        if change != "resolved":
            yield verify("compare_new", change == "new", said, kind, **slots)
        if change != "new":
            yield verify("compare_resolved", change == "resolved", said, kind, **slots)
        graded = bool(FINDING_KINDS[kind].severities)
        outcomes = ("new", "resolved", *(_TRENDS if graded else ("stable",)))
        yield Draft("compare_query_change", (change,), (said,), slots, kind, change, outcomes)
        if graded and change in _TRENDS:
            yield Draft("compare_trend", (change,), (said,), slots, kind, change, _TRENDS)
            for trend in _TRENDS[:2]:
                yield verify("compare_verify", change == trend, said, f"{kind} {trend}", kind=kind, trend=trend)


def _devices(before: Study, after: Study) -> Iterator[Draft]:
    for device in DEVICES:
        was, present = before.shows(device), after.shows(device)
        said = _device_sentence(before, after, device)
        slots = {"a_device": with_article(device)}
        yield verify("compare_device", present and not was, said, f"{device} placed", verb="placed", **slots)
        yield verify("compare_device", was and not present, said, f"{device} removed", verb="removed", **slots)


def _images(before: Study, after: Study) -> Iterator[Draft]:
    for thing in (*FINDING_KINDS, *DEVICES):
        was, present = before.shows(thing), after.shows(thing)
        answer = ("both",) if was and present else ("first",) if was else ("second",) if present else ()
        sentence = _device_sentence if thing in DEVICES else _change_sentence
        yield Draft(
            "compare_image", answer, (sentence(before, after, thing),), {"a_thing": with_article(thing)},
            thing, " ".join(answer), ("first", "second", "both", ""),
        )  # fmt: skip


def _lists(before: Study, after: Study) -> Iterator[Draft]:
    for what in ("new", "resolved"):
        kinds = tuple(kind for kind in FINDING_KINDS if change_of(before, after, kind) == what)
        if len(kinds) <= MAX_LISTED:
            said = tuple(_change_sentence(before, after, kind) for kind in kinds) or (language.no_change(what),)
            yield Draft(f"compare_query_{what}", kinds, said, topic=what, outcome=" ".join(kinds))


def drafts_of_pair(before: Study, after: Study) -> list[Draft]:
    """Every draft of the group compare about two studies of one patient."""
    return [draft for generate in (_trends, _devices, _images, _lists) for draft in generate(before, after)]


def further_of_pair(before: Study, after: Study, said: list[FactSentence]) -> list[FactSentence]:
    """Facts of a pair beside those ``said``: the changes, and the second image's heart."""
    changed = [kind for kind in FINDING_KINDS if change_of(before, after, kind)]
    facts = [_change_sentence(before, after, kind) for kind in changed]
    if "cardiomegaly" not in changed:
        facts.append(language.thing_absent("cardiomegaly"))
    return language.unmentioned(facts, said)
