"""Print the knowledge graph of a text: python -m ReXKG "There is a small left pleural effusion."

Texts come from the command line, from files (--file, one text per file) or from standard input. The lexicon extractor
reads them or, with --models, the neural extractor. Output to a terminal is colored unless NO_COLOR is set.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ReXKG.dot import to_dot
from ReXKG.graph import Graph
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.neural.folders import find_models
from ReXKG.terminal import format_graph, printable, wrap

WIDEST_LINE = 100


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ReXKG",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("text", nargs="*", help="a text; standard input is read if there is neither a text nor --file")
    parser.add_argument("--file", action="append", default=[], metavar="FILE",
                        help="a UTF-8 file that holds one text; may be given several times")  # fmt: skip
    reader = parser.add_mutually_exclusive_group()
    reader.add_argument("--terms", metavar="FILE", help="your own lexicon rows; they override the project's rows")
    reader.add_argument("--models", metavar="DIR",
                        help="read with the neural models in DIR, which holds run_entity and run_relation")  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON graph per line")
    form.add_argument("--dot", action="store_true",
                      help="print one Graphviz digraph per text; for pictures, pipe it to dot -Tsvg -O")  # fmt: skip
    return parser.parse_args(argv)


def _read_texts(args: argparse.Namespace) -> list[str]:
    texts = list(args.text)
    for path in args.file:
        try:
            texts.append(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--file {path}: cannot be read ({error}); give a UTF-8 text file") from error
    if texts or args.file:
        return texts
    try:
        return [sys.stdin.read()]
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input cannot be read ({error}); give UTF-8 text") from error


def _read_graphs(args: argparse.Namespace, texts: list[str]) -> list[Graph]:
    if args.models is None:
        return LexiconExtractor(args.terms)(texts)
    folders = find_models(args.models)
    if folders is None:
        raise ValueError(
            f"--models {args.models}: does not hold run_entity and run_relation with weights; name the folder that does"
        )
    from ReXKG.neural.extractor import NeuralExtractor  # only here, so that the lexicon extractor need not load torch

    return NeuralExtractor(folders)(texts)


def _use_color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _print_for_reading(texts: Sequence[str], graphs: Sequence[Graph]) -> None:
    width, color = min(shutil.get_terminal_size().columns, WIDEST_LINE), _use_color()
    for position, (text, graph) in enumerate(zip(texts, graphs, strict=True)):
        heading = wrap(map(printable, text.split()), width) or ["(no words)"]
        print("\n" * (position > 0) + "\n".join(heading) + "\n")
        print(format_graph(graph, width, color))


def main(argv: list[str] | None = None) -> int:
    """Print the graphs. Returns 0, or 2 with one line on stderr if a text, lexicon file or model cannot be read."""
    args = _parse_arguments(argv)
    logging.basicConfig(format="%(message)s")
    if hasattr(sys.stdout, "reconfigure"):
        # Half a surrogate pair has no UTF-8 form. It is printed as \udxxx, the form that JSON has for it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        texts = _read_texts(args)
        graphs = _read_graphs(args, texts)
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    if args.json or args.dot:
        for text, graph in zip(texts, graphs, strict=True):
            print(to_dot(graph, text) if args.dot else json.dumps(graph, ensure_ascii=False))
    else:
        _print_for_reading(texts, graphs)
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly if a reader such as head stops early
    sys.exit(main())
