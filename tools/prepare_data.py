"""Bring a public data set, as it was downloaded, into the layout that training and evaluation read.

    python -m tools.prepare_data vqa-rad SOURCE data/vqa-rad
    python -m tools.prepare_data slake SOURCE data/slake
    python -m tools.prepare_data mimic-cxr-vqa SOURCE data/mimic --images MIMIC-CXR-JPG --reports MIMIC-CXR

TARGET then has annotations/train.json, annotations/valid.json if there is such a split,
annotations/eval/test_basic_vqa.json, and images, a link to the images as downloaded. The reports of MIMIC-CXR give
explanations. `python -m tools.check_data` says what the files hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.llm.dataset import ReadingRules
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from tools.datasets.layout import write_data
from tools.datasets.sources import SOURCES, SourceFolders


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.prepare_data", description="Bring a public data set into this layout.")
    parser.add_argument("dataset", choices=tuple(SOURCES), help="the data set")
    parser.add_argument("source", type=Path, help="folder of the downloaded files")
    parser.add_argument("target", type=Path, help="data folder to make")
    parser.add_argument("--images", type=Path, help="folder of the images, if it is not in the source")
    parser.add_argument("--reports", type=Path, help="reports of MIMIC-CXR: folder, .csv or .json (default: in SOURCE)")
    parser.add_argument("--language", choices=("en", "zh", "all"), default="en", help="of SLAKE's questions (en)")
    parser.add_argument("--copy_images", action="store_true", help="copy the images instead of linking their folder")
    parser.add_argument("--leave_out_missing", action="store_true", help="leave out questions without their image file")
    parser.add_argument("--allow_links", action="store_true", help="follow links among the images that lead elsewhere")
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read the data set, write the data folder, and say what is in it."""
    arguments = parse_arguments(argv)
    for folder in (arguments.source, arguments.images):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{folder} is not a folder; name the folder of the downloaded files")
    reading = ReadingRules(allow_links=arguments.allow_links)
    folders = SourceFolders(arguments.source, arguments.images, arguments.reports, arguments.language, reading)
    data = SOURCES[arguments.dataset](folders)
    lines = write_data(
        data,
        arguments.target,
        reading,
        copy=arguments.copy_images,
        leave_out_missing=arguments.leave_out_missing,
    )
    print("\n".join(lines))
    print(f"see what they hold: python -m tools.check_data {arguments.target / 'annotations' / 'train.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
