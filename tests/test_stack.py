"""The stack of the project: imports point downward, and no import runs in a circle.

    cli -> evaluation + trainers -> engine -> llm + plugin -> utils

The rules are read from the source, so an import inside a function counts as one at the head of a file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.builders import ROOT
from tests.support.source_tree import (
    TOPS,
    ImportLine,
    import_circle,
    part_of,
    project_imports,
    read_modules,
    unresolved_imports,
    upward_imports,
)

BELOW_ENGINE = ("swift.llm", "swift.plugin", "swift.utils", "utils")
SWIFT = ("swift.trainers", "swift.evaluation", "swift.engine", *BELOW_ENGINE)
SCRIPTS_IN_PYTHON = ("evaluate", "evaluate_token_prob")
ALLOWED = {
    "ReXKG": (),
    "utils": ("ReXKG",),
    "swift": (),
    "swift.utils": (),
    "swift.llm": ("swift.utils", "utils"),
    "swift.plugin": ("swift.utils", "utils"),
    "swift.engine": BELOW_ENGINE,
    "swift.trainers": ("swift.engine", *BELOW_ENGINE),
    "swift.evaluation": ("swift.engine", *BELOW_ENGINE),
    "swift.cli": SWIFT,
    "plugin": ("swift.plugin", "swift.utils", "swift.trainers", "utils", "ReXKG"),
    "evaluate": ("swift.evaluation", "swift.utils"),
    "evaluate_token_prob": ("swift.evaluation", "swift.utils"),
    "tools": (*SWIFT, "swift.cli", "ReXKG"),
    "bench": (*SWIFT, "swift.cli", "ReXKG", "tools", "plugin"),
    "experiments": (*SWIFT, "ReXKG", "tools"),
    "tests": (*SWIFT, "swift", "swift.cli", "ReXKG", "tools", "bench", "experiments", "plugin", *SCRIPTS_IN_PYTHON),
}


@pytest.fixture(scope="module")
def modules():
    return read_modules(ROOT, TOPS)


@pytest.fixture(scope="module")
def imports(modules):
    return project_imports(modules)


def commands(modules) -> set[str]:
    """Modules directly in tools/, each of them a command."""
    return {name for name, module in modules.items() if part_of(name, ("tools",)) and module.path.parts[1:-1] == ()}


def imports_of_commands(modules, imports: list[ImportLine]) -> list[str]:
    """Imports of a command by anything but its own test. Other tests and benchmarks may run its ``main``."""
    complaints = []
    names = {name for name in commands(modules) if not modules[name].is_package}
    for line in imports:
        importer = line.importer.name
        own_test = importer.endswith(f".test_{line.target.removeprefix('tools.')}")
        runs_it = part_of(importer, ("tests", "bench")) and line.symbol in (None, "main")
        if line.target in names and not own_test and not runs_it:
            complaints.append(str(line))
    return complaints


def imports_of_tests(imports: list[ImportLine]) -> list[str]:
    return [str(line) for line in imports if line.target.rpartition(".")[2].startswith("test_")]


def test_imports_point_down_the_stack(imports):
    complaints = upward_imports(imports, ALLOWED)
    assert not complaints, "\n".join(complaints)


def test_every_module_belongs_to_a_part_of_the_stack(modules):
    assert [name for name in modules if part_of(name, ALLOWED) is None] == []
    assert [name for name, module in modules.items() if part_of(name, ALLOWED) == "swift" and module.text.strip()] == []


def test_imports_run_in_no_circle(imports):
    assert import_circle(imports) == []


def test_every_imported_name_exists(modules, imports):
    complaints = unresolved_imports(modules, imports)
    assert not complaints, "\n".join(complaints)


def test_commands_of_tools_are_imported_by_their_own_tests_only(modules, imports):
    assert len(commands(modules)) > 10
    complaints = imports_of_commands(modules, imports)
    assert not complaints, "\n".join(complaints)


def test_no_test_is_imported(imports):
    complaints = imports_of_tests(imports)
    assert not complaints, "\n".join(complaints)


# The checker itself, on small written trees: each rule is seen to fail.


def write_tree(root: Path, **files: str) -> Path:
    """Write files, named by dotted names with ``__`` for the dots. Each folder becomes a package."""
    for name, text in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in [parent for parent in path.parents if root in parent.parents]:
            (folder / "__init__.py").touch()
    return root


def imports_in(root: Path) -> list[ImportLine]:
    return project_imports(read_modules(root, ["swift"]))


RULES = {"swift.utils": (), "swift.llm": ("swift.utils",)}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("from swift.llm.policy import Policy", id="name of a module"),
        pytest.param("from swift.llm import policy", id="module of a package"),
        pytest.param("import swift.llm.policy", id="whole module"),
        pytest.param("import swift.llm.policy as policy", id="whole module, renamed"),
        pytest.param("from ..llm.policy import Policy", id="relative name"),
        pytest.param("from ..llm import policy", id="relative module"),
        pytest.param("def load():\n    from swift.llm.policy import Policy\n    return Policy", id="in a function"),
        pytest.param("class A:\n    def f(self):\n        import swift.llm.policy", id="in a method"),
        pytest.param("try:\n    import swift.llm.policy\nexcept ImportError:\n    pass", id="in a try"),
        pytest.param("if TYPE_CHECKING:\n    from swift.llm.policy import Policy", id="for types only"),
        pytest.param("import importlib\nimportlib.import_module('swift.llm.policy')", id="by import_module"),
        pytest.param("policy = __import__('swift.llm.policy')", id="by __import__"),
    ],
)
def test_an_upward_import_is_seen(tmp_path, text):
    root = write_tree(tmp_path, swift__utils__files=text, swift__llm__policy="class Policy: ...")
    (complaint,) = upward_imports(imports_in(root), RULES)
    assert complaint.startswith("swift/utils/files.py:")
    assert "imports swift.llm.policy" in complaint
    assert complaint.endswith("but swift.utils may import only itself")


def test_a_downward_import_and_one_within_a_part_pass(tmp_path):
    downward = "from swift.utils.files import write\nfrom .policy import Policy\nimport json\nfrom os import path"
    root = write_tree(tmp_path, swift__llm__load=downward, swift__llm__policy="", swift__utils__files="")
    found = imports_in(root)
    assert [line.target for line in found] == ["swift.utils.files", "swift.llm.policy"]
    assert upward_imports(found, RULES) == []


def test_a_part_that_is_not_named_may_not_be_imported(tmp_path):
    root = write_tree(tmp_path, swift__llm__load="import swift.other.thing", swift__other__thing="")
    assert len(upward_imports(imports_in(root), RULES)) == 1


@pytest.mark.parametrize("hidden", [False, True])
def test_a_circle_is_seen(tmp_path, hidden):
    last = "from swift.a import x"
    if hidden:
        last = f"def late():\n    {last}\n    return x"
    root = write_tree(tmp_path, swift__a="from swift import b\nx = 1", swift__b="import swift.c", swift__c=last)
    assert import_circle(imports_in(root)) == ["swift.a", "swift.b", "swift.c", "swift.a"]


def test_a_module_that_imports_itself_is_a_circle(tmp_path):
    root = write_tree(tmp_path, swift__a="from swift.a import x\nx = 1")
    assert import_circle(imports_in(root)) == ["swift.a", "swift.a"]


def test_two_ways_to_one_module_are_no_circle(tmp_path):
    root = write_tree(
        tmp_path, swift__a="import swift.b, swift.c", swift__b="import swift.d", swift__c="import swift.d"
    )
    write_tree(tmp_path, swift__d="")
    assert import_circle(imports_in(root)) == []


def test_imports_of_what_is_gone_are_seen(tmp_path):
    text = "from swift.b import present, gone\nfrom swift.lost import x\nfrom swift.b import late, again"
    other = (
        "present = 1\ntry:\n    import late\nexcept ImportError as error:\n    late = None\nif present:\n    again = 2"
    )
    root = write_tree(tmp_path, swift__a=text, swift__b=other)
    modules = read_modules(root, ["swift"])
    assert unresolved_imports(modules, project_imports(modules)) == [
        "swift/a.py:1 imports swift.b.gone",
        "swift/a.py:2 imports swift.lost.x",
    ]


def test_imports_of_commands_are_seen(tmp_path):
    write_tree(
        tmp_path,
        tools__sweep="def main(): ...\ndef plan(): ...",
        tools__sweeps__jobs="from tools import sweep",
        tools__other="from tools.sweep import main",
        tests__tools__test_sweep="from tools.sweep import main, plan",
        tests__tools__test_other="from tools.sweep import main, plan",
        bench__sweep="from tools import sweep",
    )
    modules = read_modules(tmp_path, ["tools", "tests", "bench"])
    assert sorted(imports_of_commands(modules, project_imports(modules))) == [
        "tests/tools/test_other.py:1 imports tools.sweep.plan",
        "tools/other.py:1 imports tools.sweep.main",
        "tools/sweeps/jobs.py:1 imports tools.sweep",
    ]


def test_an_import_of_a_test_is_seen(tmp_path):
    write_tree(tmp_path, tests__test_a="", tests__test_b="from tests import test_a\nfrom tests.test_a import x")
    found = imports_of_tests(project_imports(read_modules(tmp_path, ["tests"])))
    assert found == ["tests/test_b.py:1 imports tests.test_a", "tests/test_b.py:2 imports tests.test_a.x"]


def test_a_missing_folder_is_not_an_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read_modules(tmp_path, ["gone"])
