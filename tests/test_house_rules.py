"""House rules that a program can check: sizes, docstrings, words, type hints, and one meaning per name."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.builders import ROOT
from tests.support.source_tree import TOPS, Module, functions, part_of, read_modules

MODULES_PER_FOLDER = 16
COMMANDS_OF_TOOLS = 20  # in tools/ itself every module is one command
LINES_PER_FILE = 350
LINES_PER_FUNCTION = 60
LONG_FUNCTIONS = {
    "tests.tools.test_report_browser.desk": "one visit to a page that is slow to open, for many tests",
}
# Names that mean the same thing in every module that defines them.
SHARED_NAMES = {
    "main": "entry point of a command",
    "parse_arguments": "argument parser of a command",
    "logger": "logger of a module",
    "CACHED_SENTENCES": "size of an extractor's cache",
    "LONGEST_CACHED": "characters of the longest sentence in an extractor's cache",
}
# Methods whose signature a library decides: transformers' Trainer and callbacks, torch's modules and functions.
LIBRARY_METHODS = re.compile(r"on_\w+|train|compute_loss|forward|backward")
OPENERS = re.compile(r"(What|Which|How|Whether|Why|Where|Who|Whom|Whose|When|Whatever|Whichever|Whoever|Of)\b")
# Brackets keep the patterns from matching their own text.
CLIPPED = re.compile(
    r"\b(m[e]nd(s|ed|ing)?|w[h]oever('s)?|for w[a]nt of|of l[i]ke length|l[i]es there|go[e]s on|is t[o]ld)\b"
)
BRITISH = re.compile(
    r"(summar|normal|initial|token|optim|organ|recogn|serial|synchron|minim|maxim)[i]s(e|ed|es|er|ers|ing|ation)\b"
    r"|(col|behavi|neighb|fav)[o]ur|\bl[a]belled\b|\bc[e]ntres?\b",
    re.IGNORECASE,
)
PROSE = (".py", ".md", ".sh", ".js", ".html", ".css", ".toml", ".txt")


@pytest.fixture(scope="module")
def modules():
    return read_modules(ROOT, TOPS)


def texts() -> Iterator[tuple[Path, str]]:
    """Paths and texts of code, documents and page templates. Data tables are left out."""
    places = [*(ROOT / top for top in TOPS), ROOT / "docs", *ROOT.glob("*.md"), *ROOT.glob("*.sh")]
    for place in [*places, ROOT / "Makefile", ROOT / ".ci" / "run"]:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in PROSE or path == place:
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def lines_matching(pattern: re.Pattern[str], files: Iterable[tuple[Path, str]]) -> list[str]:
    return [
        f"{path}:{number} {line.strip()}"
        for path, text in files
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def badly_opened(tree: ast.Module, where: object) -> list[str]:
    """Docstrings that open with a question word or "Of"."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    complaints = []
    for node in (node for node in ast.walk(tree) if isinstance(node, documented)):
        docstring = ast.get_docstring(node) or ""
        if OPENERS.match(docstring):
            complaints.append(f"{where}:{node.body[0].lineno} {docstring.splitlines()[0]}")
    return complaints


def long_functions(module: Module) -> list[str]:
    return [
        f"{module.name}.{name}"
        for name, node in functions(module.tree)
        if node.end_lineno - node.lineno + 1 > LINES_PER_FUNCTION
    ]


def without_hints(module: Module) -> list[str]:
    """Public functions, methods and constructors with a parameter or a result that has no type hint."""
    complaints = []
    for name, node in functions(module.tree):
        *around, own = name.split(".")
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        bare += ["return"] if node.returns is None and own != "__init__" else []
        private = any(part.startswith("_") for part in around) or re.match(r"_(?!_init__|_call__)", own)
        nested = "." in name and not _is_method(module.tree, around)
        if bare and not private and not nested and not (around and LIBRARY_METHODS.fullmatch(own)):
            complaints.append(f"{module.path}:{node.lineno} {name}: {', '.join(bare)}")
    return complaints


def _is_method(tree: ast.Module, around: list[str]) -> bool:
    return any(isinstance(node, ast.ClassDef) and [node.name] == around for node in tree.body)


def public_names(tree: ast.Module) -> set[str]:
    """Functions, classes and variables that a module defines at top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_no_folder_of_code_is_crowded(modules):
    counts = Counter(module.path.parent for module in modules.values() if not module.is_package)
    most = {".": len(modules), "tools": COMMANDS_OF_TOOLS}
    assert {str(f): n for f, n in counts.items() if n > most.get(str(f), MODULES_PER_FOLDER)} == {}


def test_no_file_is_long(modules):
    lengths = {str(module.path): len(module.text.splitlines()) for module in modules.values()}
    assert {path: length for path, length in lengths.items() if length > LINES_PER_FILE} == {}


def test_no_function_is_long_without_a_reason(modules):
    listed = [name for module in modules.values() for name in long_functions(module)]
    assert sorted(listed) == sorted(LONG_FUNCTIONS)


def test_docstrings_open_with_a_verb_or_a_noun(modules):
    complaints = [line for module in modules.values() for line in badly_opened(module.tree, module.path)]
    assert not complaints, "\n".join(complaints)


def test_words_are_not_clipped():
    """CONTRIBUTING.md is left out, since it quotes the words."""
    complaints = lines_matching(CLIPPED, ((path, text) for path, text in texts() if path.name != "CONTRIBUTING.md"))
    assert not complaints, "\n".join(complaints)


def test_spelling_is_american():
    complaints = lines_matching(BRITISH, texts())
    assert not complaints, "\n".join(complaints)


def test_public_functions_have_type_hints(modules):
    complaints = [
        line for module in modules.values() if not part_of(module.name, ("tests",)) for line in without_hints(module)
    ]
    assert not complaints, "\n".join(complaints)


def test_a_public_name_has_one_meaning(modules):
    homes: dict[str, list[str]] = {}
    for module in modules.values():
        if part_of(module.name, ("swift", "ReXKG", "utils", "tools", "experiments")):
            for name in public_names(module.tree) - SHARED_NAMES.keys():
                homes.setdefault(name, []).append(str(module.path))
    complaints = [f"{name}: {', '.join(paths)}" for name, paths in sorted(homes.items()) if len(paths) > 1]
    assert not complaints, "\n".join(complaints)


# The checks themselves, on short texts.


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ('"""What comes first."""', True),
        ('"""Of anything."""', True),
        ('class A:\n    """Whose it is."""', True),
        ('def f():\n    def g():\n        """How to."""', True),
        ('async def f():\n    """\n    When it ends.\n    """', True),
        ('"""Words of a report."""', False),
        ('"""Offsets of words."""', False),
        ('"""Whatsoever."""', False),
        ("def f():\n    return 'What'", False),
    ],
)
def test_openings_of_docstrings_are_seen(text, bad):
    assert bool(badly_opened(ast.parse(text), "file.py")) is bad


@pytest.mark.parametrize(
    ("pattern", "bad", "good"),
    [
        (CLIPPED, "cannot be read; {}nd the file", "recommended amendments"),
        (BRITISH, "def summari{}e(): ...", "summarizes a revised version"),
    ],
)
def test_words_are_seen(pattern, bad, good):
    bad = bad.format("me" if pattern is CLIPPED else "s")
    assert lines_matching(pattern, [(Path("a.md"), f"{good}\n{bad}\n")]) == [f"a.md:2 {bad}"]


def test_long_functions_are_seen():
    text = "def long():\n" + "    pass\n" * LINES_PER_FUNCTION + "def short():\n    pass\n"
    text += "class A:\n    def long(self):\n" + "        pass\n" * LINES_PER_FUNCTION
    assert long_functions(Module("m", Path("m.py"), text, ast.parse(text))) == ["m.long", "m.A.long"]


HINTS = """\
class A:
    def __init__(self, x): ...
    def f(self, x, y: int): ...
    def on_end(self, args): ...
    def _private(self, x): ...
def f(x: int): ...
def good(x: int) -> None:
    def nested(y): ...
class _Private:
    def f(self, x): ...
"""


def test_missing_hints_are_seen():
    module = Module("m", Path("m.py"), HINTS, ast.parse(HINTS))
    assert without_hints(module) == ["m.py:2 A.__init__: x", "m.py:3 A.f: x, return", "m.py:6 f: return"]


def test_public_names_are_seen():
    text = "A = 1\nB: int = 2\n_C = 3\n(D, E) = [x for x in (4, 5)]\ndef f():\n    G = 1\nclass H:\n    I = 2\n"
    assert public_names(ast.parse(text)) == {"A", "B", "D", "E", "f", "H"}
