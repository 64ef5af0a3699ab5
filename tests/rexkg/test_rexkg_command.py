"""The command `python -m ReXKG`: its text for readers, its JSON and DOT for machines."""

import html
import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from ReXKG import terminal
from ReXKG.__main__ import main
from ReXKG.dot import to_dot
from ReXKG.graph import ENTITY_TYPES
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.neural.extractor import NeuralExtractor
from ReXKG.neural.folders import find_models
from ReXKG.terminal import columns, format_graph, printable, wrap
from tests.support.pure_checkpoint import random_sentences, write_checkpoint

SENTENCE = "There is a small left pleural effusion. No pneumothorax."
REPORT = """The endotracheal tube terminates 4 cm above the carina. There is a moderate left pleural effusion with
adjacent compressive atelectasis, increased since the prior radiograph. Patchy opacity in the right lower lobe is
suggestive of pneumonia. No pneumothorax. Healed fractures of the left third through fifth ribs are noted. A 7 mm
calcified granuloma in the right upper lung zone is stable. The left picc has been removed."""
NASTY = 'A left-"quoted\\N" &lt; left-<b>\\ effusion, left-胸水, left-\x1b[31m and left-\ud800.'


def run(*words, capsys):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def graph_of(text):
    return LexiconExtractor()([text])[0]


def test_findings_come_first_and_every_entity_stands_with_its_relations(capsys):
    assert run(SENTENCE, capsys=capsys).splitlines() == [
        "There is a small left pleural effusion. No pneumothorax.",
        "",
        "disorders present",
        "  effusion  modified by small; located at pleural",
        "disorders not present",
        "  pneumothorax",
        "anatomy",
        "  pleural   modified by left",
        "concepts",
        "  small, left",
    ]


def test_every_entity_and_every_relation_of_a_report_is_shown_once():
    graph = graph_of(REPORT)
    lines = format_graph(graph, width=10_000).splitlines()
    shown = [line.strip() for line in lines if line.startswith("  ")]
    leading = [re.split(" {2,}", line)[0].split(", ") for line in shown]
    assert sorted(name for names in leading for name in names) == sorted(graph["entities"])
    count = sum(len(re.findall(r"(?:by|at|of) |, ", line)) for line in shown if re.search(" {2,}", line))
    assert count == len({tuple(relation.values()) for relation in graph["relations"]})


@pytest.mark.parametrize("width", [40, 60, 100])
def test_lines_keep_within_the_width(width):
    for line in [*format_graph(graph_of(REPORT), width).splitlines(), *wrap(REPORT.split(), width)]:
        assert columns(line) <= width


def test_a_longer_word_than_the_line_stands_alone():
    assert wrap(["a", "b" * 12, "c"], 10, "> ", "  ") == ["> a", "  " + "b" * 12, "  c"]


def test_wide_characters_take_two_columns_and_accents_none():
    assert columns("胸水") == 4
    assert columns("e\u0301") == 1
    assert wrap(["胸水", "胸水", "ab"], 9) == ["胸水 胸水", "ab"]


def test_a_text_without_entities_says_so(capsys):
    assert run("", capsys=capsys).split("\n\n") == ["(no words)", "no entities\n"]


def test_several_texts_are_set_apart_by_a_blank_line(capsys):
    assert "\n\nNo mass.\n\n" in run("No effusion.", "No mass.", capsys=capsys)


def test_codes_that_a_terminal_would_obey_are_not_printed(capsys):
    shown = run(NASTY, capsys=capsys)
    assert "left-\ufffd[31m" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert printable("a\u202eb\x00") == "a\ufffdb\ufffd"


def in_terminal(**environment):
    """The output of the command in a terminal."""
    terminal_end, command_end = pty.openpty()
    settings = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "ReXKG", SENTENCE]
    subprocess.run(command, stdout=command_end, stdin=command_end, env=settings | environment, check=True, timeout=60)
    os.close(command_end)
    try:
        return os.read(terminal_end, 65536).decode()
    finally:
        os.close(terminal_end)


def test_titles_are_colored_in_a_terminal():
    assert "\x1b[1;31mdisorders present\x1b[0m" in in_terminal()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_color_can_be_refused(environment):
    assert "\x1b" not in in_terminal(**environment)


def test_a_pipe_gets_no_color(capsys):
    assert "\x1b" not in run(SENTENCE, capsys=capsys)


def test_every_type_has_its_own_place_in_the_order():
    assert sorted(terminal._ORDER) == sorted(ENTITY_TYPES)


def test_json_is_one_graph_per_line_as_the_extractor_gives_it(capsys):
    lines = run("--json", SENTENCE, "", REPORT, NASTY, capsys=capsys).splitlines()
    assert [json.loads(line) for line in lines] == LexiconExtractor()([SENTENCE, "", REPORT, NASTY])


def test_files_and_standard_input_are_read(capsys, monkeypatch, tmp_path):
    report = tmp_path / "report.txt"
    report.write_text("\ufeffNo effusion.", encoding="utf-8")
    from_file = run("--json", "--file", str(report), capsys=capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO("No effusion."))
    assert run("--json", capsys=capsys) == from_file
    assert json.loads(from_file)["entities"] == {"effusion": "disorder_notpresent"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_not_text_is_one_line_and_status_2(capsys, tmp_path, content):
    path = tmp_path / "report.txt"
    if content:
        path.write_bytes(content)
    assert main(["--file", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --file {path}")
    assert error.count("\n") == 1


def test_standard_input_that_is_not_text_is_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"No effusion \xff"), encoding="utf-8"))
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: standard input cannot be read")


def test_half_a_surrogate_pair_reaches_a_utf8_output():
    command = [sys.executable, "-m", "ReXKG", "--json"]
    done = subprocess.run(
        command,
        input=b"left-\xff effusion",
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:surrogateescape"},
        check=True,
    )
    assert json.loads(done.stdout)["entities"] == {"left-\udcff": "concept", "effusion": "disorder_present"}


# The part of the DOT grammar that is used here: digraph ID { statements }, quoted strings and plain words as IDs.
_DOT_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(->|[{}\[\];=,])|([A-Za-z_]\w*))', re.DOTALL)


def parse_dot(source):
    """[(name, nodes {id: attributes}, edges [(from, to, attributes)], settings)] of digraphs; fails on other text."""
    tokens, end = [], 0
    source = source.rstrip()
    while end < len(source):
        match = _DOT_TOKEN.match(source, end)
        assert match, f"no token at {source[end : end + 40]!r}"
        tokens.append(match.group(match.lastindex))
        end = match.end()
    tokens.reverse()

    def take(expected=None):
        token = tokens.pop()
        assert expected in (None, token)
        return token

    def attributes():
        values = {}
        take("[")
        while tokens[-1] != "]":
            name = take()
            take("=")
            values[name] = take()
            if tokens[-1] == ",":
                take(",")
        take("]")
        return values

    graphs = []
    while tokens:
        take("digraph")
        name, nodes, edges, settings = take(), {}, [], {}
        take("{")
        while tokens[-1] != "}":
            first = take()
            if tokens[-1] == "->":
                take("->")
                second = take()
                edges.append((first, second, attributes()))
            elif first in ("graph", "node", "edge"):
                settings[first] = attributes()
            else:
                nodes[first] = attributes()
            take(";")
        take("}")
        graphs.append((name, nodes, edges, settings))
    return graphs


def unescaped(label):
    """The text that Graphviz shows for a quoted label."""
    return re.sub(r"\\(.)", lambda m: {"l": "\n"}.get(m[1], m[1]), html.unescape(label[1:-1]))


@pytest.mark.parametrize("text", [SENTENCE, REPORT, NASTY, "", "No entities here?"])
def test_dot_holds_the_entities_and_relations_of_the_graph(text):
    graph = graph_of(text)
    ((name, nodes, edges, settings),) = parse_dot(to_dot(graph, text))
    shown = {node: unescaped(attributes["label"]) for node, attributes in nodes.items()}
    assert name == '"0"'
    assert list(shown.values()) == [printable(entity) for entity in graph["entities"]]
    assert [attributes["tooltip"] for attributes in nodes.values()] == [f'"{k}"' for k in graph["entities"].values()]
    triples = {(printable(r["source_entity"]), printable(r["target_entity"]), r["type"]) for r in graph["relations"]}
    drawn = [(shown[source], shown[target], unescaped(a["label"])) for source, target, a in edges]
    assert set(drawn) == triples
    assert len(drawn) == len(triples)
    assert unescaped(settings["graph"]["label"]).split() == printable(" ".join(text.split())).split()


def test_dot_gives_types_their_own_color_and_dashes_absent_entities():
    ((_, nodes, _, _),) = parse_dot(to_dot(graph_of(REPORT), REPORT))
    looks = {attributes["tooltip"]: (attributes["fillcolor"], attributes.get("style")) for attributes in nodes.values()}
    for kind, (_, style) in looks.items():
        assert ("dashed" in (style or "")) == ("notpresent" in kind)
    present = {kind: fill for kind, (fill, style) in looks.items() if not style}
    assert len(set(present.values())) == len(present) >= 6


def test_dot_of_several_texts_is_several_digraphs(capsys):
    graphs = parse_dot(run("--dot", SENTENCE, "No mass.", capsys=capsys))
    assert [name for name, *_ in graphs] == ['"0"', '"1"']


def test_json_and_dot_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--json", "--dot", SENTENCE])
    assert stop.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_reader_that_stops_early_leaves_no_traceback():
    command = f"{sys.executable} -m ReXKG --json {' '.join(['No.'] * 3000)} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_models_of_a_folder_read_the_text(tmp_path, capsys):
    root = write_checkpoint(tmp_path)
    text = " ".join(random_sentences(3))
    graph = json.loads(run("--models", str(root), "--json", text, capsys=capsys))
    assert graph["entities"]
    assert graph == NeuralExtractor(find_models(root), "cpu")([text])[0]


def test_missing_models_are_one_line_and_status_two(tmp_path, capsys):
    assert main(["--models", str(tmp_path), SENTENCE]) == 2
    assert f"--models {tmp_path}" in capsys.readouterr().err
