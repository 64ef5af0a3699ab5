"""Comparisons: every contrast of the plan by every outcome, with corrected p-values and verdicts.

The confirmatory family holds the confirmatory contrasts by the primary outcomes, and its p-values are corrected by
Holm. All others are exploratory and corrected by Benjamini and Hochberg. These rules give the verdict on "more of the
outcome", in this order:

    supported       the corrected p-value is below 0.05, and the effect is for the better
    worse           the corrected p-value is below 0.05, and the effect is for the worse: not supported
    not supported   the 95% interval leaves no room for an effect of the smallest size of interest
    undecided       all others

Outcomes without a better side, such as the length, get no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from experiments.claim.bootstrap import Estimate, Term, estimate_contrast
from experiments.claim.corrections import benjamini_hochberg, holm
from experiments.claim.outcomes import OUTCOMES, Outcome, cell_sums
from experiments.claim.plan import SFT, WARM_START, ClaimPlan, Contrast, PlanCell
from experiments.claim.tables import QuestionsByWorld, TablesByTag
from swift.utils.errors import UserError

ALPHA = 0.05
DEFAULT_SMALLEST = 0.02
MORE_SEEDS = (5, 10, 20, 40, 80)


class Verdict(StrEnum):
    """Verdicts on an effect, by the rules above; NONE if no run was measured or the outcome has no better side."""

    SUPPORTED = "supported"
    WORSE = "not supported, worse"
    NOT_SUPPORTED = "not supported"
    UNDECIDED = "undecided"
    NONE = ""


@dataclass(frozen=True)
class Comparison:
    """One contrast by one outcome.

    Attributes:
        outcome: its name in `OUTCOMES`.
        confirmatory: True for the family that the plan fixes.
        seeds: the seeds that all cells have.
        smallest: the smallest effect of interest.
        estimate: None if no seed is there for all cells.
        corrected: the corrected p-value.
    """

    contrast: Contrast
    outcome: str
    confirmatory: bool
    seeds: tuple[int, ...]
    smallest: float
    estimate: Estimate | None
    corrected: float = 1.0

    @property
    def what(self) -> Outcome:
        return OUTCOMES[self.outcome]

    @property
    def verdict(self) -> Verdict:
        """The verdict by the rules above."""
        if self.estimate is None or self.what.better == 0:
            return Verdict.NONE
        return verdict_on(self.estimate, self.corrected, self.what.better, self.smallest)

    @property
    def detectable(self) -> float:
        """The smallest difference that an experiment of this size finds in four of five cases."""
        return self.estimate.detectable(self.estimate.seeds, self.estimate.patients)


def verdict_on(estimate: Estimate, corrected: float, better: int, smallest: float) -> Verdict:
    """The verdict on an effect. ``better`` is 1 if more of the outcome is better, and -1 if less is."""
    if corrected < ALPHA:
        return Verdict.SUPPORTED if estimate.effect * better > 0 else Verdict.WORSE
    best = estimate.hi if better > 0 else -estimate.lo
    return Verdict.NOT_SUPPORTED if best < smallest else Verdict.UNDECIDED


def seeds_needed(estimate: Estimate, smallest: float) -> int | None:
    """The number of seeds with which a difference of interest would be found in four of five cases, with the same
    questions; None if 80 are not enough."""
    return next((seeds for seeds in MORE_SEEDS if estimate.detectable(seeds, estimate.patients) <= smallest), None)


def compare_all(plan: ClaimPlan, tables: TablesByTag, questions: QuestionsByWorld) -> list[Comparison]:
    """All comparisons, contrast by contrast, in the order of the plan."""
    unknown = [name for name in (*plan["primary"], *plan["smallest"]) if name not in OUTCOMES]
    if unknown:
        raise UserError(f"plan.json: there is no outcome {unknown[0]!r}; name one of {', '.join(OUTCOMES)}")
    compared = [_compare(plan, contrast, name, tables, questions) for contrast in plan.contrasts for name in OUTCOMES]
    corrected: dict[int, float] = {}
    for confirmatory, correct in ((True, holm), (False, benjamini_hochberg)):
        places = [n for n, one in enumerate(compared) if one.estimate and one.confirmatory == confirmatory]
        p_values = [compared[place].estimate.p_value for place in places]
        corrected |= dict(zip(places, correct(p_values), strict=True))
    return [replace(one, corrected=corrected.get(place, 1.0)) for place, one in enumerate(compared)]


def _compare(
    plan: ClaimPlan,
    contrast: Contrast,
    name: str,
    tables: TablesByTag,
    questions: QuestionsByWorld,
) -> Comparison:
    outcome = OUTCOMES[name]
    tags = {cell: [_tag(cell.label, cell.baseline, seed) for seed in plan.seeds] for _, cell in contrast.weights}
    places = [n for n in range(len(plan.seeds)) if all(listed[n] in tables for listed in tags.values())]
    estimate = None
    if places:
        terms = [
            Term(
                weight,
                cell_sums([tables[tags[cell][n]] for n in places], outcome, questions),
                _stratum(plan, contrast, cell),
            )
            for weight, cell in contrast.weights
        ]
        counted = all(term.sums.denominators.sum() for term in terms)
        estimate = estimate_contrast(terms) if counted else None
    confirmatory = contrast.confirmatory and name in plan["primary"]
    smallest = plan["smallest"].get(name, DEFAULT_SMALLEST)
    return Comparison(contrast, name, confirmatory, tuple(plan.seeds[n] for n in places), smallest, estimate)


def _stratum(plan: ClaimPlan, contrast: Contrast, cell: PlanCell) -> str:
    """The stratum of a cell. The warm start has no seeds, so that any stratum will do."""
    sampling = plan["sft"]["sampling"] if cell.baseline == SFT else cell.sampling
    return contrast.strata.get(sampling, "")


def _tag(label: str, baseline: str, seed: int) -> str:
    """The tag of a cell's run. The warm start is the same policy for all seeds."""
    return label if baseline == WARM_START else f"{label}-seed{seed}"


def claim_sentence(compared: Sequence[Comparison]) -> str:
    """A contrast's claim with its verdicts by the primary outcomes, effects and intervals, and what would decide it."""
    parts = []
    for one in compared:
        name = one.what.label[:1].upper() + one.what.label[1:]
        if one.estimate is None:
            parts.append(f"{name}: no runs.")
            continue
        value = one.estimate
        text = f"{name}: {one.verdict} ({value.effect:+.3f} [{value.lo:+.3f}, {value.hi:+.3f}])"
        if one.verdict == Verdict.UNDECIDED:
            needed = seeds_needed(value, one.smallest)
            text += (
                f"; {needed} seeds per cell would find a difference of {one.smallest:g}"
                if needed
                else f"; to find a difference of {one.smallest:g} takes more patients, not more seeds"
            )
        parts.append(f"{text}.")
    return " ".join([compared[0].contrast.claim, *parts])
