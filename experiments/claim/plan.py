"""The plan of the experiment, read from plan.json: its cells, their runs, and the contrasts between them.

A *cell* is one combination of rewards, advantage, sampling and size, with a run per seed. The baselines are two further
cells: "sft", with a run per seed, and "start", the one policy that all runs begin with. A *contrast* compares the cells
that fit ``plus`` with those that fit ``minus`` and are like them in every other factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.flag_limits import CommandParser

HERE = Path(__file__).parent
PLAN_FILE, RESULTS = HERE / "plan.json", HERE / "results"
WARM_START, SFT = "start", "sft"
FACTORS = ("rewards", "advantage", "sampling", "size")
_REQUIRED = (
    "places", "worlds", "start", "difficulty", "grpo", "rewards", "advantages", "seeds", "grid", "sft", "measurement",
    "primary", "smallest", "contrasts",
)  # fmt: skip


@dataclass(frozen=True)
class PlanCell:
    """One combination of the factors, or a baseline."""

    rewards: str = ""
    advantage: str = ""
    sampling: str = ""
    size: str = ""
    baseline: str = ""

    @property
    def label(self) -> str:
        """The cell's name in tables, and the beginning of its runs' tags."""
        return self.baseline or "-".join(getattr(self, factor) for factor in FACTORS)


@dataclass(frozen=True)
class CellRun:
    """One run of a cell. The one run of the warm start has no seed."""

    cell: PlanCell
    seed: int | None

    @property
    def tag(self) -> str:
        """The run's name in the results."""
        return self.cell.label if self.seed is None else f"{self.cell.label}-seed{self.seed}"


@dataclass(frozen=True)
class Contrast:
    """A comparison that answers one claim. ``weights`` sum to 0.

    ``strata`` names the stratum of each sampling policy: cells whose runs share training sets, or are paired with such,
    are in one stratum, because what a set has by chance is then in all of them.
    """

    name: str
    claim: str
    confirmatory: bool
    weights: tuple[tuple[float, PlanCell], ...]
    strata: Mapping[str, str]


@dataclass(frozen=True)
class ClaimPlan:
    """The settings of plan.json, and what follows from them."""

    settings: Mapping[str, Any]
    cells: tuple[PlanCell, ...]
    contrasts: tuple[Contrast, ...]

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    @property
    def seeds(self) -> list[int]:
        return self.settings["seeds"]

    @property
    def output(self) -> Path:
        return Path(self.settings["places"]["output"])

    def world(self, name: str) -> Path:
        """The folder of a world: home or shifted."""
        return Path(self.settings["places"]["data"]) / name

    def policy_name(self, sampling: str, seed: int) -> str:
        """The folder of a training set, as `tools.sample_data` names it."""
        return f"{sampling}_seed{seed}" if len(self.seeds) > 1 else sampling

    def runs(self) -> Iterator[CellRun]:
        """The warm start, then all runs, seed by seed."""
        yield CellRun(PlanCell(baseline=WARM_START), None)
        for seed in self.seeds:
            for cell in (*self.cells, PlanCell(baseline=SFT)):
                yield CellRun(cell, seed)


def read_plan(path: Path = PLAN_FILE) -> ClaimPlan:
    """The plan in a file. Raises UserError if a part is missing, or names something that is not in the plan."""
    settings = read_json(path, "restore it from git")
    missing = [name for name in _REQUIRED if name not in settings]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; see the plan in git for its form")
    if not settings["seeds"] or len(set(settings["seeds"])) < len(settings["seeds"]):
        raise UserError(f"{path}: seeds must be at least one number, each named once")
    cells = tuple(dict.fromkeys(_cells(path, settings)))
    contrasts = tuple(_contrast(path, settings, entry, cells) for entry in settings["contrasts"])
    return ClaimPlan(settings, cells, contrasts)


def _cells(path: Path, settings: Mapping[str, Any]) -> Iterator[PlanCell]:
    """The cells of all blocks of the grid."""
    for block in settings["grid"]:
        for part in ("rewards", "advantages"):
            for name in block[part]:
                if name not in settings[part]:
                    raise UserError(f"{path}: the grid names {part} {name!r}, which {part} does not have; add it there")
        yield from (
            PlanCell(rewards, advantage, sampling, str(size))
            for rewards in block["rewards"]
            for advantage in block["advantages"]
            for sampling in block["samplings"]
            for size in block["sizes"]
        )


def _contrast(path: Path, settings: Mapping[str, Any], entry: Mapping[str, Any], cells: Sequence[PlanCell]) -> Contrast:
    """A contrast with the weights of its cells: the mean over the pairs that differ as it says and in nothing else."""
    plus, minus, where = entry["plus"], entry["minus"], entry["where"]
    unknown = [name for part in (plus, minus, where) for name in part if name not in (*FACTORS, "baseline")]
    if unknown:
        raise UserError(f"{path}: contrast {entry['name']!r} names {unknown[0]!r}; factors are {', '.join(FACTORS)}")
    differing = {*plus, *minus, "baseline"}
    pairs = []
    for first in _fitting(plus, where, cells):
        for second in _fitting(minus, where, cells):
            one, other = asdict(first), asdict(second)
            if second.baseline or all(one[name] == other[name] for name in FACTORS if name not in differing):
                pairs.append((first, second))
    if not pairs:
        raise UserError(
            f"{path}: contrast {entry['name']!r} compares no cells of the grid; correct it, or leave it out"
        )
    weights: dict[PlanCell, float] = {}
    for first, second in pairs:
        weights[first] = weights.get(first, 0.0) + 1 / len(pairs)
        weights[second] = weights.get(second, 0.0) - 1 / len(pairs)
    listed = tuple((weight, cell) for cell, weight in weights.items())
    return Contrast(entry["name"], entry["claim"], entry["confirmatory"], listed, _strata(pairs, settings))


def _strata(pairs: Sequence[tuple[PlanCell, PlanCell]], settings: Mapping[str, Any]) -> dict[str, str]:
    """The stratum of each sampling policy: policies that are compared with each other share one. Training sets of one
    policy and seed share records whatever their size."""
    of_sft = settings["sft"]["sampling"]
    samplings = [
        [of_sft if cell.baseline == SFT else cell.sampling for cell in pair if cell.baseline != WARM_START]
        for pair in pairs
    ]
    strata = {name: name for listed in samplings for name in listed}
    for listed in samplings:
        joined = {strata[name] for name in listed}
        strata = {name: min(joined) if stratum in joined else stratum for name, stratum in strata.items()}
    return strata


def _fitting(side: Mapping[str, str], where: Mapping[str, str], cells: Sequence[PlanCell]) -> list[PlanCell]:
    """The cells of one side of a contrast."""
    if "baseline" in side:
        return [PlanCell(baseline=name) for name in (WARM_START, SFT) if name == side["baseline"]]
    wanted = {**where, **side}
    return [cell for cell in cells if all(getattr(cell, name) == value for name, value in wanted.items())]


def plan_parser(command: str, description: str) -> CommandParser:
    """The parser of a command of the experiment, with the flags that all of them have."""
    parser = CommandParser(prog=f"python -m experiments.claim.{command}", description=description)
    parser.add_argument("--plan", type=Path, default=PLAN_FILE, help="the plan (default: that of the experiment)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    return parser
