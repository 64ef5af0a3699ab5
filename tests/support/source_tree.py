"""Reader of the project's own source: modules, the imports between them, and import circles. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Folders and files with code, seen from the root of the project.
TOPS = (
    "swift", "ReXKG", "utils", "tools", "bench", "experiments", "tests",
    "plugin.py", "evaluate.py", "evaluate_token_prob.py",
)  # fmt: skip
LOADERS = ("import_module", "__import__", "run_module")  # calls that import the module named by a string


@dataclass(frozen=True)
class Module:
    """One source file under its dotted name; a package stands for its ``__init__.py``."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class ImportLine:
    """One import of a module of the project. ``symbol`` is the name taken from it, or None for the module itself."""

    importer: Module
    target: str
    symbol: str | None
    line: int

    def __str__(self) -> str:
        name = f"{self.target}.{self.symbol}" if self.symbol else self.target
        return f"{self.importer.path}:{self.line} imports {name}"


def read_modules(root: Path, tops: Sequence[str]) -> dict[str, Module]:
    """Modules of the folders and files ``tops`` under ``root``, by dotted name.

    Raises:
        FileNotFoundError: one of ``tops`` does not exist, so a rule about it would check nothing.
    """
    modules = {}
    for top in tops:
        place = root / top
        if not place.exists():
            raise FileNotFoundError(f"{place} does not exist")
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            inside = path.relative_to(root)
            name = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            modules[name] = Module(name, inside, text, ast.parse(text, filename=str(inside)))
    return modules


def project_imports(modules: Mapping[str, Module]) -> list[ImportLine]:
    """All imports between ``modules``, those inside functions and under TYPE_CHECKING included.

    ``from package import name`` counts as an import of the module ``package.name`` if there is such a module.
    """
    tops = {name.split(".")[0] for name in modules}
    return [
        ImportLine(module, *_split(dotted, modules, whole), line)
        for module in modules.values()
        for dotted, whole, line in _dotted_names(module)
        if dotted.split(".")[0] in tops
    ]


def unresolved_imports(modules: Mapping[str, Module], imports: Iterable[ImportLine]) -> list[str]:
    """Imports of a module or of a name that the project does not define."""
    defined = {name: set(_top_level_names(module.tree.body)) for name, module in modules.items()}
    return [
        str(line)
        for line in imports
        if line.target not in modules or line.symbol not in (None, "*", *defined[line.target])
    ]


def import_circle(imports: Iterable[ImportLine]) -> list[str]:
    """Names of the modules of one import circle, with the first name again at the end. Empty if there is no circle."""
    graph: dict[str, list[str]] = {}
    for line in imports:
        graph.setdefault(line.importer.name, []).append(line.target)
    done: set[str] = set()

    def search(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in graph.get(name, ()):
            if circle := search(target, [*trail, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in graph if (circle := search(name, []))), [])


def part_of(name: str, parts: Iterable[str]) -> str | None:
    """The longest of ``parts`` that is ``name`` or a package around it. None if there is none."""
    around = [part for part in parts if name == part or name.startswith(f"{part}.")]
    return max(around, key=len, default=None)


def upward_imports(imports: Iterable[ImportLine], allowed: Mapping[str, Sequence[str]]) -> list[str]:
    """Imports from one part of the stack into another that ``allowed`` does not name. A part may import itself."""
    complaints = []
    for line in imports:
        importer, target = part_of(line.importer.name, allowed), part_of(line.target, allowed)
        if importer is not None and target != importer and target not in allowed[importer]:
            complaints.append(f"{line}, but {importer} may import only {', '.join(allowed[importer]) or 'itself'}")
    return complaints


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions of a module under their qualified names, nested ones included."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            name = f"{prefix}{child.name}" if is_function or isinstance(child, ast.ClassDef) else None
            if is_function:
                yield name, child
            yield from visit(child, prefix if name is None else f"{name}.")

    yield from visit(tree, "")


def _dotted_names(module: Module) -> Iterator[tuple[str, bool, int]]:
    """Name, flag and line number per import. The flag is true for ``import a.b``, whose whole name is a module."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, True, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield from ((f"{base}.{alias.name}", False, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            if function in LOADERS and isinstance(node.args[0].value, str):
                yield node.args[0].value, True, node.lineno


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    around = module.name.split(".")
    around = around[: len(around) - node.level + module.is_package]
    return ".".join([*around, node.module] if node.module else around)


def _split(dotted: str, modules: Mapping[str, Module], whole: bool) -> tuple[str, str | None]:
    """Module and symbol of a dotted name."""
    if whole or dotted in modules:
        return dotted, None
    target, _, symbol = dotted.rpartition(".")
    return target, symbol


def _top_level_names(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        else:
            yield from (leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name) and _is_stored(leaf))
            for field in ("body", "orelse", "handlers", "finalbody"):
                yield from _top_level_names(getattr(node, field, ()))


def _is_stored(leaf: ast.Name) -> bool:
    return isinstance(leaf.ctx, ast.Store)
