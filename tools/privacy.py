"""List what of a run folder or result folder holds patient data, and make copies that can be shared.

    python -m tools.privacy output/run                        every file, and what of it holds patient data
    python -m tools.privacy output/run --redact shared/run    a copy with numbers and pseudonyms alone
    python -m tools.privacy output/run --redact DIR --keep_weights

The copy holds no question, answer, text, path, name or image. Patients, questions and images have pseudonyms from a key
that is drawn for the copy and thrown away. A file that is not known is left out. In the end the copy is searched for
every text, path and identifier of the source; if one is found, the copy is removed and the status is 2. docs/privacy.md
says what remains.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import reports_user_errors
from swift.utils.flag_limits import CommandParser
from tools.redaction.copying import FileReport, list_folder, redact_folder
from tools.reports.tables import align

FIELDS_LISTED = 12


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.privacy", description="Patient data in run and result folders.")
    parser.add_argument("source", type=Path, metavar="folder",
                        help="a run folder, a result folder, a sweep, or a folder of them")  # fmt: skip
    parser.add_argument(
        "--redact", type=Path, metavar="DIR", help="write a copy without patient data to this new folder"
    )
    parser.add_argument("--keep_weights", action="store_true",
                        help="put *.safetensors into the copy; weights may have learned texts by heart")  # fmt: skip
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    if arguments.redact is None:
        reports = list_folder(arguments.source)
    else:
        reports = redact_folder(arguments.source, arguments.redact, arguments.keep_weights)
    print(align([["file", "kind", "records", "holds", "not in a copy"], *map(_line, reports)], gap=2))
    if arguments.redact is not None:
        print(f"wrote {arguments.redact}: none of the texts, paths and identifiers of {arguments.source} is in it")
    return 0


def _line(report: FileReport) -> list[str]:
    if report.left_out or (report.kind.rule is None and not report.kept):
        without = f"all of it{f' ({report.left_out})' if report.left_out else ''}"
    else:
        fields = [f"{name} {count}" for name, count in report.withheld.most_common()]
        more = [f"and {len(fields) - FIELDS_LISTED} more fields"] if len(fields) > FIELDS_LISTED else []
        without = ", ".join(fields[:FIELDS_LISTED] + more)
    records = str(report.records) if report.records else ""
    return [str(report.path), report.kind.name, records, ", ".join(report.holds), without]


if __name__ == "__main__":
    sys.exit(main())
