"""Tables of the document, made from the results alone, and their places between markers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.claim.comparisons import ALPHA, Comparison, claim_sentence
from experiments.claim.outcomes import OUTCOMES, cell_sums
from experiments.claim.plan import SFT, WARM_START, ClaimPlan, PlanCell
from experiments.claim.tables import HOME, QuestionsByWorld, RunTable, TablesByTag
from swift.utils.errors import UserError
from tools.reports.tables import to_markdown
from tools.sweeps.summary import METRICS, FinishedRun

MAIN_OUTCOMES = (
    "accuracy", "accuracy_yes", "accuracy_no", "exact_set", "sound", "truth", "invented", "kg_jaccard", "hallucination",
    "omission", "looking_blank", "pass", "length", "shifted_accuracy", "shifted_sound",
)  # fmt: skip
WATCHED = ("reward", "kl", "completion_length", "signs/contradictory", "signs/against_answer", "signs/restates")
# Beside the document, in images/:
EFFECTS_PLOT, SIZES_PLOT, STEPS_PLOT = "claim_effects.png", "claim_sizes.png", "claim_steps.png"
_MARKED = re.compile(r"(<!-- claim:(\w+) -->\n).*?(<!-- claim:end -->)", re.DOTALL)


def all_sections(
    plan: ClaimPlan, tables: TablesByTag, questions: QuestionsByWorld, compared: Sequence[Comparison], machine: Mapping
) -> dict[str, str]:
    """Markdown of each section by its name in the markers."""
    return {
        "runs": runs_section(plan, tables, questions, machine),
        "claims": claims_section(compared, plan),
        "verdicts": verdicts_section(compared),
        "cells": cells_section(plan, tables, questions),
        "outcomes": outcomes_section(compared),
        "power": power_section(compared),
        "training": training_section(plan, tables),
    }


def fill_sections(text: str, sections: Mapping[str, str]) -> str:
    """The document with the sections between its markers. Raises UserError if a marker is unknown."""

    def section(match: re.Match[str]) -> str:
        if match[2] not in sections:
            raise UserError(f"the marker claim:{match[2]} is unknown; name one of {', '.join(sections)}")
        return f"{match[1]}\n{sections[match[2]].strip()}\n\n{match[3]}"

    return _MARKED.sub(section, text)


def runs_section(plan: ClaimPlan, tables: TablesByTag, questions: QuestionsByWorld, machine: Mapping) -> str:
    """Numbers of runs, questions and patients, the time, and the runs that are missing."""
    planned = [run.tag for run in plan.runs()]
    missing = [tag for tag in planned if tag not in tables]
    seconds = sum(tables[tag].record["seconds"] for tag in planned if tag in tables)
    lines = [
        f"{len(planned) - len(missing)} of {len(planned)} runs are measured. The seconds of their training add up to "
        f"{seconds / 3600:.1f} hours."
    ]
    for world, asked in questions.items():
        count = len({row.patient for row in asked.rows})
        lines.append(f"The {world} world asked {len(asked.rows)} questions about {count} patients.")
    if machine:
        hours = sum(machine["seconds"].values()) / 3600
        lines.append(f"All stages took {hours:.1f} hours, {machine['jobs']} runs side by side, on {machine['cores']} "
                     f"cores ({machine['cpu']}).")  # fmt: skip
    if missing:
        lines.append(f"Missing: {', '.join(missing)}.")
    return "\n".join(lines)


def claims_section(compared: Sequence[Comparison], plan: ClaimPlan) -> str:
    """A sentence per contrast."""
    sentences = []
    for contrast in plan.contrasts:
        own = [one for one in compared if one.contrast is contrast and one.outcome in plan["primary"]]
        sentences.append(f"- **{contrast.name}**{'' if contrast.confirmatory else ' (exploratory)'}: "
                         f"{claim_sentence(own)}")  # fmt: skip
    return "\n".join(sentences)


def verdicts_section(compared: Sequence[Comparison]) -> str:
    """The confirmatory family."""
    rows = [["contrast", "outcome", "effect [95% interval]", "p", "p (Holm)", "verdict", "smallest of interest"]]
    for one in compared:
        if one.confirmatory:
            value = one.estimate
            numbers = [effect_text(one), *map(_p_text, (value.p_value, one.corrected))] if value else ["-"] * 3
            rows.append([one.contrast.name, one.what.label, *numbers, one.verdict or "no runs", f"{one.smallest:g}"])
    return f"{to_markdown(rows)}\n![Effects with their intervals, by contrast](images/{EFFECTS_PLOT})\n"


def _p_text(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def outcomes_section(compared: Sequence[Comparison]) -> str:
    """Every contrast by every outcome."""
    by_place = {(one.outcome, one.contrast.name): one for one in compared}
    names = list(dict.fromkeys(one.contrast.name for one in compared))
    rows = [["outcome", *names]]
    for outcome in OUTCOMES:
        cells = []
        for name in names:
            one = by_place[outcome, name]
            star = " *" if one.estimate and one.corrected < ALPHA else ""
            cells.append(effect_text(one) + star)
        rows.append([OUTCOMES[outcome].label, *cells])
    return to_markdown(rows)


def effect_text(one: Comparison) -> str:
    """An effect with its interval, or a dash."""
    if one.estimate is None:
        return "-"
    digits = 1 if one.outcome == "length" else 3
    value = one.estimate
    return f"{value.effect:+.{digits}f} [{value.lo:+.{digits}f}, {value.hi:+.{digits}f}]"


def cells_section(plan: ClaimPlan, tables: TablesByTag, questions: QuestionsByWorld) -> str:
    """Mean over seeds of the main outcomes by cell, with the standard deviation over seeds."""
    rows = [["cell", "runs", *(OUTCOMES[name].label for name in MAIN_OUTCOMES)]]
    for cell in (PlanCell(baseline=WARM_START), PlanCell(baseline=SFT), *plan.cells):
        own = cell_tables(plan, cell, tables)
        rows.append([cell.label, str(len(own)), *(_mean_text(name, own, questions) for name in MAIN_OUTCOMES)])
    return f"{to_markdown(rows)}\n![Accuracy and KG F1 by the size of the training set](images/{SIZES_PLOT})\n"


def _mean_text(name: str, own: Sequence[RunTable], questions: QuestionsByWorld) -> str:
    means = [cell_sums([table], OUTCOMES[name], questions).ratio for table in own]
    if not means or np.isnan(means).any():
        return "-"
    digits = 1 if name == "length" else 3
    spread = f" ({statistics.stdev(means):.{digits}f})" if len(means) > 1 else ""
    return f"{statistics.fmean(means):.{digits}f}{spread}"


def cell_tables(plan: ClaimPlan, cell: PlanCell, tables: TablesByTag) -> list[RunTable]:
    """The measured runs of a cell, in the order of the seeds."""
    return [tables[run.tag] for run in plan.runs() if run.cell == cell and run.tag in tables]


def power_section(compared: Sequence[Comparison]) -> str:
    """The differences that the experiment could see, from the variance that was observed."""
    rows = [
        [
            "contrast",
            "outcome",
            "standard error",
            "of seeds",
            "of patients",
            "of answers",
            "detectable",
            "with 10 seeds",
        ]
    ]
    for one in compared:
        if one.confirmatory and one.estimate:
            value = one.estimate
            parts = (max(0.0, value.seed_variance - value.noise_variance),
                     max(0.0, value.patient_variance - value.noise_variance), value.noise_variance)  # fmt: skip
            shares = [f"{part / sum(parts):.0%}" if sum(parts) else "-" for part in parts]
            rows.append([one.contrast.name, one.what.label, f"{value.error:.4f}", *shares, f"{one.detectable:.3f}",
                         f"{value.detectable(10, value.patients):.3f}"])  # fmt: skip
    return to_markdown(rows) if len(rows) > 1 else "No runs are measured yet."


def training_section(plan: ClaimPlan, tables: TablesByTag) -> str:
    """The end of training by cell, as a mean over seeds of the last point of the curve, to find what collapsed."""
    rows = [["cell", *(name.removeprefix("signs/") for name in WATCHED), "seconds"]]
    for cell in plan.cells:
        own = [table.record for table in cell_tables(plan, cell, tables) if table.record["curve"]]
        if own:
            last = [record["curve"][-1] for record in own]
            means = [[point[name] for point in last if name in point] for name in WATCHED]
            rows.append([cell.label, *(f"{statistics.fmean(values):.3g}" if values else "-" for values in means),
                         f"{statistics.fmean(record['seconds'] for record in own):.0f}"])  # fmt: skip
    if len(rows) == 1:
        return "No runs are measured yet."
    return f"{to_markdown(rows)}\n![Length and rewards during training](images/{STEPS_PLOT})\n"


def as_sweep(plan: ClaimPlan, tables: TablesByTag) -> list[FinishedRun]:
    """The GRPO runs in the form of `tools.sweeps.summary`, for its table and plots."""
    names, grpo = {"accuracy": "answer_overlap"}, plan["grpo"]
    shared = tuple(grpo.get(name, "") for name in ("LEARNING_RATE", "GENERATIONS", "BETA"))
    runs = []
    for run in plan.runs():
        if run.tag in tables and not run.cell.baseline:
            record, columns = tables[run.tag].record, tables[run.tag].values[HOME]
            metrics = {name: columns[names.get(name, name)] for name in METRICS}
            rewards = plan["rewards"][run.cell.rewards]
            rewards += "" if run.cell.advantage == "sum" else f" {run.cell.advantage}"
            setting = (run.cell.sampling, run.cell.size, *shared, rewards)
            runs.append(FinishedRun(run.tag, setting, str(run.seed), "finished", "", metrics, record["curve"]))
    return runs
