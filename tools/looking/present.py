"""Figures of looking as tables, as JSON, as data of report.html, and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.looking.compute import Look, LookFigures, Looking
from tools.looking.figures import CHANGED, LOOKING_RULES
from tools.reports.result_files import GROUPINGS
from tools.reports.tables import Table
from utils.intervals import Interval
from utils.metrics import TRAINING_RULE

RELIANCE = "image_reliance"
FIGURE_LABELS = {
    "accuracy_with_image": "accuracy with image",
    "accuracy_without_image": "accuracy without",
    RELIANCE: "image reliance",
    "right_only_with_image": "right only with",
    "right_only_without_image": "right only without",
    CHANGED: "answers that change",
}
_SIGNED = {RELIANCE}  # figures that are differences themselves
SUMMARY_FIGURES = (RELIANCE, "right_only_with_image", "right_only_without_image", CHANGED)


def look_label(look: Look, labels: Mapping[str, str]) -> str:
    """The row of a look: "SFT, blank", or "GRPO - SFT, blank" for a difference."""
    runs = labels[look.run] + (f" - {labels[look.baseline]}" if look.baseline else "")
    return f"{runs}, {look.control}"


def looking_table(looking: Looking, labels: Mapping[str, str]) -> Table:
    """One row per run and control, then one per difference, by the training rule: mean [low, high]."""
    rows = [["run, control", *FIGURE_LABELS.values()]]
    for look in looking.looks:
        rows.append([look_label(look, labels), *(_cell(look, look.overall, name) for name in FIGURE_LABELS)])
    return rows


def reliance_table(looking: Looking, labels: Mapping[str, str]) -> Table:
    """Image reliance by the training rule: one row per kind of question, one column per run and control, then one per
    difference: mean [low, high]."""
    rows = [["kind of question", "questions", *(look_label(look, labels) for look in looking.looks)]]
    for field, values in looking.looks[0].by.items():
        for value, figures in values.items():
            cells = [_cell(look, look.by[field][value], RELIANCE) for look in looking.looks]
            rows.append([f"{GROUPINGS[field]}: {value}", str(figures.count), *cells])
    return rows


def looking_numbers(looking: Looking, labels: Mapping[str, str]) -> Table:
    """Every figure for spreadsheets, one per row. ``baseline`` is given for differences, and ``kind`` of the questions
    is empty for all of them. The share of answers that change has no rule."""
    head = ["run", "baseline", "control", "field", "kind", "questions", "rule", "figure", "mean", "low", "high"]
    rows = [head]
    for look in looking.looks:
        own = [labels[look.run], labels[look.baseline] if look.baseline else "", look.control]
        kinds = [("", "", look.overall)]
        kinds += [(field, value, figures) for field, values in look.by.items() for value, figures in values.items()]
        for field, value, figures in kinds:
            for (name, rule), interval in figures.intervals.items():
                numbers = (
                    [f"{part:.6g}" for part in (interval.mean, interval.lo, interval.hi)] if interval else [""] * 3
                )
                rows.append([*own, field, value, str(figures.count), rule or "", name, *numbers])
    return rows


def looking_document(looking: Looking) -> dict[str, Any]:
    """The part ``looking`` of metrics.json: every figure with its interval."""
    return {
        "rules": list(LOOKING_RULES),
        "notes": looking.notes,
        "figures": [
            {"run": look.run, "control": look.control, "baseline": look.baseline, **_nested(look, Interval.as_dict)}
            for look in looking.looks
        ],
    }


def looking_summary(looking: Looking) -> dict[str, Any]:
    """The part ``looking`` of summary.json, by the training rule: ``{run: {control: {figure: interval}}}``, and as
    ``difference`` the same of the runs that were compared with another."""
    summary: dict[str, Any] = {}
    for look in looking.looks:
        place = summary.setdefault("difference", {}) if look.baseline else summary
        place.setdefault(look.run, {})[look.control] = {
            name: value.as_dict() for name in SUMMARY_FIGURES if (value := look.overall.of(name, TRAINING_RULE))
        }
    return summary


def looking_page(looking: Looking, names: list[str]) -> dict[str, Any] | None:
    """The data of the section in report.html. ``names`` are those of the page's runs in their order."""
    if not looking:
        return None
    return {
        "rules": list(LOOKING_RULES),
        "controls": looking.controls,
        "figures": [{"name": name, "label": label, "signed": name in _SIGNED} for name, label in FIGURE_LABELS.items()],
        "notes": looking.notes,
        "looks": [
            {
                "run": names.index(look.run),
                "control": look.control,
                "baseline": names.index(look.baseline) if look.baseline else None,
                **_nested(look, lambda value: [round(part, 4) for part in (value.mean, value.lo, value.hi)]),
            }
            for look in looking.looks
        ],
    }


def looking_lines(looking: Looking, labels: Mapping[str, str]) -> list[str]:
    """One line per run and control, and per difference, for the terminal."""
    lines = []
    for look in looking.looks:
        reliance, changed = (look.overall.of(name, TRAINING_RULE) for name in (RELIANCE, CHANGED))
        if reliance and changed:
            sign = "+" if look.baseline else ""
            label = look_label(look, labels)
            lines.append(f"{label}: image reliance {reliance:+.3f}, answers that change {changed:{sign}.3f}")
    return lines


def _nested(look: Look, form: Any) -> dict[str, Any]:
    by = {field: {value: own.nested(form) for value, own in values.items()} for field, values in look.by.items()}
    return {"overall": look.overall.nested(form), "by": by}


def _cell(look: Look, figures: LookFigures, name: str) -> str:
    value = figures.of(name, TRAINING_RULE)
    sign = "+" if look.baseline or name in _SIGNED else ""
    return f"{value:{sign}.3f}" if value else ""
