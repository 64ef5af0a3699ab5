"""Audit of rewards: what attacks on them earn compared with the truth.

    python -m tools.reward_audit --dataset data/demo/annotations/eval/*.json --output output/audit
    python -m tools.reward_audit --completions output/run/completions.jsonl --output output/run/audit

The first form makes attacks from the references of a data set (`tools.audits.attacks`), scores them with the rewards
of `plugin.py` or of other plugins, and prints for each attack the share of records in which it earns at least as much
as the truth. The second looks for the signs of the same attacks in the completions of a training run. Both write
audit.html with the worst cases, audit.csv and audit.md. No image is read and no model is needed.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swift.llm.dataset import find_question
from swift.llm.records.files import read_items
from swift.llm.records.parts import find_solution
from swift.plugin.loader import OWN_PLUGIN, load_external_plugins
from swift.plugin.rewards import build_rewards
from swift.utils.endings.leaving import run_to_its_end
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_text
from swift.utils.flag_limits import CommandParser
from tools.audits.attacks import PARAPHRASE, TRUTH, Attacks, AuditRecord, make_record
from tools.audits.pages import matrix_page, signs_page
from tools.audits.scoring import AttackCell, score_attacks, table_of
from tools.audits.signs import SignTable, find_signs
from tools.reports.page import render_page
from tools.reports.tables import Table, align, to_csv, to_markdown
from tools.reports.training_log import read_arguments, read_completions
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name, finding_reader

PUBLISHED = ("external_r1v_acc", "external_kg_jac")
STRICT = ("external_findings", "external_acc_strict", "external_consistency")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.reward_audit", description="Audit of rewards by attacks.")
    source = parser.add_argument_group("what is audited")
    source.add_argument("--dataset", type=Path, nargs="+", help="files of records with references, JSON or JSON lines")
    source.add_argument("--completions", type=Path, help="completions.jsonl of a training run, in place of --dataset")
    source.add_argument("--max_records", type=int, default=2000,
                        help="records at most, drawn at random (default: 2000)")  # fmt: skip
    source.add_argument("--seed", type=int, default=0, help="seed of the draw and of the attacks")
    rewards = parser.add_argument_group("rewards")
    rewards.add_argument("--external_plugins", type=Path, nargs="+", default=[OWN_PLUGIN], help="plugin files")
    rewards.add_argument("--reward_funcs", nargs="+", action="append", metavar="NAME",
                         help="rewards whose sum is audited; repeat the flag for another set (default: the published "
                         "rewards, and the strict ones)")  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, required=True, help="folder for audit.html, audit.csv and audit.md")
    output.add_argument("--title", default="Audit of rewards", help="heading of the page")
    arguments = parser.parse_args(argv)
    if (arguments.dataset is None) == (arguments.completions is None):
        raise UserError("give either --dataset with records or --completions with a run's completions.jsonl")
    if arguments.max_records < 1:
        raise UserError(f"--max_records {arguments.max_records} must be 1 or more")
    return arguments


def read_records(paths: Sequence[Path], most: int, seed: int) -> list[AuditRecord]:
    """The records with a reference, ``most`` of them at random. Raises UserError if there are none."""
    records = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"--dataset {path} is not a file; name files of records")
        for item, place in read_items(path):
            try:
                question, solution = find_question(item), find_solution(item)
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            if solution:
                records.append(make_record(item, question, solution))
    if not records:
        raise UserError(f"--dataset {paths[0]} has no record with a reference; attacks are made from references")
    chosen = sorted(random.Random(seed).sample(range(len(records)), min(most, len(records))))
    return [records[position] for position in chosen]


def audit_records(arguments: argparse.Namespace) -> tuple[dict, Table]:
    """The page's data and the table of an audit by attacks."""
    sets = [list(dict.fromkeys(names)) for names in arguments.reward_funcs or [PUBLISHED, STRICT]]
    rewards = build_rewards(dict.fromkeys(name for names in sets for name in names))
    records = read_records(arguments.dataset, arguments.max_records, arguments.seed)
    scored = score_attacks(records, Attacks(records, finding_reader(), arguments.seed), rewards, sets)
    table = table_of(scored, records)
    page = matrix_page(scored, table, records, arguments.title, extractor_name())
    return page, matrix_table(table)


def matrix_table(table: dict[str, dict[str, AttackCell]]) -> Table:
    """The matrix as text: mean reward of the truth, share kept by the paraphrase, shares of successful attacks."""
    columns = list(next(iter(table.values())))
    rows = [["attack", *(column.replace("external_", "") for column in columns)]]
    for attack, cells in table.items():
        if attack == TRUTH:
            rows.append(["truth (mean reward)", *(f"{cells[column].mean:.2f}" for column in columns)])
            continue
        name = "paraphrase (reward kept)" if attack == PARAPHRASE else attack
        rows.append([name, *(f"{cells[column].success:.3f}" for column in columns)])
    return rows


def audit_completions(arguments: argparse.Namespace) -> tuple[dict, Table]:
    """The page's data and the table of the signs in a run's completions."""
    if not arguments.completions.is_file():
        raise UserError(f"--completions {arguments.completions} is not a file; name a run's completions.jsonl")
    rows = list(read_completions(arguments.completions))
    if not rows:
        raise UserError(f"--completions {arguments.completions} holds no completions; wait for the first step")
    settings = read_arguments(arguments.completions.parent)
    names = settings.get("reward_funcs") or []
    weights = dict(zip(names, settings.get("reward_weights") or [1.0] * len(names), strict=False))
    signs = find_signs(rows, weights, finding_reader(), extract_knowledge_graph)
    return signs_page(signs, rows, arguments.title, extractor_name()), signs_table(signs)


def signs_table(signs: SignTable) -> Table:
    """The signs as text: share of the completions, and mean reward with and without the sign."""
    rows = [["sign", "share", "reward with", "reward without"]]
    for sign, present in signs.present.items():
        every = np.arange(len(present))
        numbers = [signs.share(sign, every), signs.reward(sign, True), signs.reward(sign, False)]
        rows.append([sign, *("" if number is None else f"{number:.3f}" for number in numbers)])
    return rows


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    load_external_plugins(arguments.external_plugins)
    page, table = audit_records(arguments) if arguments.dataset else audit_completions(arguments)
    path = write_text(arguments.output / "audit.html", render_page("audit", arguments.title, page))
    write_text(arguments.output / "audit.csv", to_csv(table))
    write_text(arguments.output / "audit.md", to_markdown(table))
    print(f"{page['facts']}\n\n{align(table)}\n\n{path}")
    return 0


if __name__ == "__main__":
    run_to_its_end(main)
