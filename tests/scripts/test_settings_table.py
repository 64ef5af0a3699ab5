"""docs/sweeps.md lists every setting of the scripts, with the defaults that the code has."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from tests.support.builders import ROOT
from tools.sweeps.demo import DEMO_RUN_DEFAULTS, DEMO_SWEEP_DEFAULTS
from tools.sweeps.settings import EvaluationSettings, RunSettings, SweepSettings, read_settings

SCRIPTS = ("train.sh", "train_loop.sh", "evaluate.sh", "get_kg_metric.sh", "tools/demo.sh", "tools/launch.sh")
KINDS = (RunSettings, EvaluationSettings, SweepSettings)


@pytest.fixture(scope="module")
def table() -> dict[str, list[list[str]]]:
    """The cells of the rows of each variable, after its name."""
    rows: dict[str, list[list[str]]] = {}
    for line in (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `([A-Z_0-9]+)` \|(.*)\|$", line):
            rows.setdefault(match[1], []).append([cell.strip() for cell in match[2].split("|")])
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_of_a_run_or_sweep_stands_with_its_default(table, kind):
    for setting in fields(kind):
        default = setting.default and f"`{setting.default}`"
        assert any(row[0] == default or not default for row in table[setting.name.upper()]), setting.name


def test_every_default_of_the_demo_stands_there(table):
    for name, value in [*DEMO_RUN_DEFAULTS.items(), *DEMO_SWEEP_DEFAULTS.items()]:
        assert any(f"`{value}`" in cell for row in table[name] for cell in row), name


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_variable_that_a_script_reads_stands_there(table, script):
    read = set(re.findall(r"\$\{([A-Z_]+):-", (ROOT / script).read_text(encoding="utf-8")))
    assert not read - table.keys()


def test_an_empty_variable_counts_as_unset():
    run = read_settings(RunSettings, {"BETA": "", "SEED": "7", "LRS": "1"})
    assert (run.beta, run.seed) == ("0.5", "7")
