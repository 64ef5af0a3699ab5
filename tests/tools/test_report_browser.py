"""report.html in headless Chromium: what a reader does with it, at a desk and on a phone."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.support.browser import needs_chromium, visit
from tools import compare_results

pytestmark = needs_chromium

TRUTH = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"
WRONG = "<think>There is a large right nodule.</think><answer>no</answer>"
HOSTILE = '</script><img src=x onerror="document.title=\'owned\'"><b>bold</b> & "quoted" \u2028 🫁 \ud800'
RIGHT = {"base": {0, 1, 2}, "tuned": {0, 1, 3, 4, 5}, "other": set()}


def result(number, run, pictures):
    text = TRUTH if number in RIGHT[run] else WRONG
    tokens = [text[:9], text[9:], ""]
    return {
        "id": number,
        "subject_id": f"p{number // 2}",
        "question": HOSTILE if number == 5 else f"Is there an effusion, number {number}?",
        "answer": ["yes"],
        "explanation": TRUTH,
        "semantic_type": "verify" if number % 2 else "query",
        "generated_text": text,
        "num_tokens": 10,
        "image_paths": [str(pictures[number % 2])],
        "generated_tokens": tokens,
        "token_logprobs": [-0.01, -1.5, float("-inf")],
        "token_entropies": [0.05, 1.25, 0.0],
        "token_ranks": [1, 2, 1],
        "token_alternatives": [[], [{"token": "</b>", "logprob": -0.5}], []],
    }


def write_runs(folder, pictures, count=6):
    flags = []
    for run in RIGHT:
        document = {
            "dataset": "test_basic_vqa",
            "checkpoint": HOSTILE,
            "control": "shuffled" if run == "other" else "none",
            "calibration": {
                "right_by": "answer_overlap",
                "ece": {"mean": 0.2, "lo": 0.1, "hi": 0.3},
                "auroc": None,
                "bins": [
                    {"low": 0.0, "high": 0.5, "count": 2, "confidence": 0.4, "accuracy": 0.5},
                    {"low": 0.5, "high": 1.0, "count": 4, "confidence": 0.9, "accuracy": 0.75},
                ],
            },
            "results": [result(number, run, pictures) for number in range(count)],
        }
        (folder / f"{run}.json").write_text(json.dumps(document), encoding="utf-8")
        flags += ["--run", f"{run}={folder / run}.json"]
    return flags


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two radiographs, of which the second is not there."""
    folder = tmp_path_factory.mktemp("images")
    Image.new("L", (60, 40), 90).save(folder / "a.png")
    return folder / "a.png", folder / "b.png"


@pytest.fixture(scope="module")
def report(tmp_path_factory, pictures):
    """A report of three runs with embedded images."""
    folder = tmp_path_factory.mktemp("report")
    flags = write_runs(folder, (pictures[0], pictures[0]))
    assert compare_results.main([*flags, "--output", str(folder), "--title", HOSTILE, "--embed_images"]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def desk(report, tmp_path_factory):
    """One visit of a reader who filters, opens, compares and turns the light off, with mouse and keys."""
    steps = """
    const rows = () => all("#list .item .ask").map((row) => row.textContent);
    for (let waits = 0; waits < 40 && all("#calibration .keys b").length < 3; waits++) await pause(50);
    outcome.ready = document.documentElement.dataset.ready !== undefined;
    outcome.heads = all("#summary thead th").map((cell) => cell.textContent);
    outcome.metrics = all("#summary tbody th").map((cell) => cell.textContent);
    outcome.reliability = all("#calibration figure").map((figure) => figure.querySelectorAll("circle").length);
    outcome.calibrationTotals = all("#calibration .keys").map((keys) => keys.textContent.trim());
    outcome.calibrationWords = one("#calibration figcaption").textContent;
    outcome.rows = rows();
    outcome.shown = one("#shown").textContent;
    outcome.first = one("#case h3").textContent;
    outcome.comparison = one("#comparison").textContent;

    pick("outcome", "fixed");
    outcome.fixed = rows();
    pick("outcome", "broken");
    outcome.broken = rows();
    outcome.verdicts = all("#case .verdict").map((mark) => mark.textContent.trim());
    outcome.marks = all("#case .outputs .output:last-child > p mark").map((mark) => [mark.textContent, mark.className]);
    outcome.facts = all("#case .output:last-child .factlist mark").map((mark) => [mark.textContent, mark.className]);
    pick("outcome", "all");
    pick("semantic type", "verify");
    outcome.verify = rows();
    pick("semantic type", "");

    pick("compared with", "2");
    outcome.otherComparison = one("#comparison").textContent;
    outcome.columns = all("#case .output h4").map((head) => head.textContent);
    pick("compared with", "");
    outcome.alone = [one("#comparison").textContent, all("#case .output h4").length];
    pick("compared with", "1");

    type("number 3");
    outcome.found = rows();
    type("nodule");
    outcome.foundInTexts = rows().length;
    type("no such words");
    outcome.none = [rows().length, one("#rows").textContent];
    one("#query").focus();
    press("Escape");
    outcome.cleared = [rows().length, document.activeElement.id];

    one("#list").focus();
    press("ArrowDown"); press("j");
    outcome.third = one("#case h3").textContent;
    press("k");
    outcome.second = one("#case h3").textContent;
    press("End");
    outcome.last = one("#case h3").textContent;
    outcome.active = one("#" + one("#list").getAttribute("aria-activedescendant")).getAttribute("aria-selected");
    outcome.elements = [all("#case b b, #list b").length, document.title];
    press("Home");
    press("/");
    outcome.searching = document.activeElement.id;

    one("#view-tokens").click();
    const tokens = all("#case .output:nth-child(2) .token");
    outcome.tokens = tokens.map((token) => [token.textContent, token.style.getPropertyValue("--doubt")]);
    tokens[0].focus();
    press("ArrowRight");
    outcome.told = one("#case .output:nth-child(2) .tokeninfo").textContent;
    outcome.toldBold = all(".tokeninfo b").length;

    one("#case .images button").click();
    outcome.large = one("dialog[open] img").src.slice(0, 22);
    one("dialog").close();

    const paper = () => getComputedStyle(document.body).backgroundColor;
    const light = paper();
    one("#theme").click();
    outcome.dark = [light, paper(), one("#theme").getAttribute("aria-pressed")];
    one("#theme").click();
    outcome.lightAgain = paper() === light;
    """
    return visit(report, tmp_path_factory.mktemp("desk"), steps)


def test_nothing_goes_wrong_and_no_request_leaves_the_file(desk):
    assert desk.outcome["ready"]
    assert desk.outcome["errors"] == []
    assert desk.outcome["blocked"] == []
    assert [name for name in desk.outcome["resources"] if not name.startswith("data:")] == []
    assert desk.addresses == set()


def test_a_request_would_have_been_seen_and_is_stopped(report, tmp_path):
    leak = '<img src="http://leak.example/x.png"><script src="http://leak.example/x.js"></script></body>'
    page = tmp_path / "leaking.html"
    page.write_text(report.read_text(encoding="utf-8").replace("</body>", leak), encoding="utf-8")
    stopped = visit(page, tmp_path / "stopped")
    assert sorted(stopped.outcome["blocked"]) == ["http://leak.example/x.js", "http://leak.example/x.png"]
    assert stopped.addresses == set()
    head, policy, rest = page.read_text(encoding="utf-8").partition("default-src 'none'; img-src data:;")
    assert policy
    page.write_text(f"{head}default-src *; img-src *;{rest}", encoding="utf-8")
    assert "http://leak.example/x.png" in visit(page, tmp_path / "open").addresses


def test_what_data_says_is_text_on_the_page(desk):
    shown = HOSTILE.replace("\ud800", "?")
    assert desk.outcome["elements"] == [0, shown]
    assert desk.outcome["last"] == shown
    assert desk.outcome["toldBold"] == 0


def test_table_has_every_run_its_difference_and_every_rule(desk):
    assert desk.outcome["heads"] == ["base", "tuned", "other", "tuned − base", "other − base"]
    assert {"accuracy", "KG Jaccard", "length (tokens)", "substring", "exact set"} <= {
        name.removeprefix("accuracy, ").replace("_", " ") if name.startswith("accuracy,") else name
        for name in desk.outcome["metrics"]
    }


def test_calibration_has_a_point_a_bin_and_a_plot_a_run(desk):
    assert desk.outcome["reliability"] == [2, 2, 2]
    assert desk.outcome["calibrationWords"] == "right by answer_overlap, ece 0.200 [0.100, 0.300]"


def test_the_legend_of_calibration_has_the_share_of_all_answers(desk):
    # by hand: (2 * 0.5 + 4 * 0.75) / 6 = 0.667, not the 0.75 of the last bin
    assert desk.outcome["calibrationTotals"] == ["share right 0.667"] * 3


def test_all_questions_are_listed_and_the_first_is_open(desk):
    assert len(desk.outcome["rows"]) == 6
    assert desk.outcome["shown"] == "6 of 6 questions"
    assert desk.outcome["first"] == "Is there an effusion, number 0?"


def test_filters_by_outcome_type_and_text(desk):
    names = [f"Is there an effusion, number {number}?" for number in range(5)]
    hostile = HOSTILE.replace("\ud800", "?")
    assert desk.outcome["fixed"] == [names[3], names[4], hostile]
    assert desk.outcome["broken"] == [names[2]]
    assert desk.outcome["verify"] == [names[1], names[3], hostile]
    assert desk.outcome["found"] == [names[3]]
    assert desk.outcome["foundInTexts"] == 4  # 2 where the second run is wrong, 3 to 5 where the first is; not 0 and 1
    assert desk.outcome["none"] == [0, "No question matches."]
    assert desk.outcome["cleared"] == [6, "list"]


def test_two_runs_are_compared_side_by_side(desk):
    # base right: 0 1 2, tuned: 0 1 3 4 5; McNemar's exact p of 3 against 1 is 2 (1 + 4) / 16 = 0.625
    words = desk.outcome["comparison"]
    assert "3 fixed, 1 broken, 2 right and 0 wrong both times" in words
    assert "Accuracy +0.333 [" in words
    assert "p = 0.625" in words
    assert "0 fixed, 3 broken, 0 right and 3 wrong" in desk.outcome["otherComparison"]
    assert [head.split("✗")[0].split("✓")[0] for head in desk.outcome["columns"]] == ["Reference", "base", "other"]
    assert desk.outcome["alone"] == ["", 2]


def test_facts_are_matched_missing_or_hallucinated(desk):
    assert desk.outcome["verdicts"] == ["✓ right", "✗ wrong"]
    assert ["nodule", "extra claim"] in desk.outcome["marks"]
    facts = dict(desk.outcome["facts"])
    assert facts["nodule (present)"] == "extra claim"
    assert facts["effusion (present)"] == "missing"
    assert facts["large modify nodule"] == "extra"
    assert facts["effusion located at pleural"] == "missing"


def test_keys_move_search_and_leave(desk):
    assert desk.outcome["third"].endswith("number 2?")
    assert desk.outcome["second"].endswith("number 1?")
    assert desk.outcome["active"] == "true"
    assert desk.outcome["searching"] == "query"


def test_tokens_are_shaded_and_told(desk):
    # doubt is nats / 3, at most 1; a log-probability of minus infinity is all doubt
    (start, doubt), (_, more), (end, most) = desk.outcome["tokens"]
    assert (start, end) == (TRUTH[:9], "end")
    assert [float(doubt), float(more), float(most)] == pytest.approx([0.01 / 3, 0.5, 1], abs=1e-6)
    told = desk.outcome["told"]
    assert "probability 0.223, log-probability −1.50, rank 2, entropy 1.25 nats" in told
    assert 'instead: "</b>" 0.607' in told


def test_images_enlarge_and_dark_mode_is_dark(desk):
    assert desk.outcome["large"] == "data:image/jpeg;base64"
    light, dark, pressed = desk.outcome["dark"]
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (light, dark)]
    assert brightness[0] > 600
    assert brightness[1] < 150
    assert pressed == "true"
    assert desk.outcome["lightAgain"]


def test_on_a_phone_a_question_opens_over_the_list_and_nothing_sticks_out(report, tmp_path):
    steps = """
    outcome.width = [document.documentElement.scrollWidth, innerWidth];
    outcome.before = getComputedStyle(one("#case")).display;
    all("#list .item")[2].click();
    outcome.open = [getComputedStyle(one("#case")).position, one("#case h3").textContent, document.activeElement.id];
    outcome.caseWidth = [one("#case").scrollWidth, one("#case").clientWidth];
    press("Escape");
    outcome.after = [getComputedStyle(one("#case")).display, document.activeElement.id];
    """
    seen = visit(report, tmp_path, steps, size="390,844").outcome
    assert seen["errors"] == []
    assert seen["width"][0] <= seen["width"][1] <= 500
    assert seen["before"] == "none"
    assert seen["open"] == ["fixed", "Is there an effusion, number 2?", "close"]
    assert seen["caseWidth"][0] <= seen["caseWidth"][1]
    assert seen["after"] == ["none", "list"]


def test_images_left_in_their_files_show_or_make_way_quietly(pictures, tmp_path):
    flags = write_runs(tmp_path, pictures)
    assert compare_results.main([*flags, "--output", str(tmp_path)]) == 0
    steps = """
    await pause(300);
    outcome.thumbs = all("#list .thumb").map((image) => [image.src.slice(0, 8), image.naturalWidth]);
    outcome.absent = all("#list .absent").map((place) => place.textContent);
    outcome.opened = one("#case h3").textContent;
    """
    seen = visit(tmp_path / "report.html", tmp_path / "visit", steps, fragment="#question-4")
    assert seen.outcome["thumbs"] == [["file:///", 60]] * 3
    assert seen.outcome["absent"] == ["X-ray cannot be loaded"] * 3
    assert seen.outcome["opened"].endswith("number 4?")
    assert (seen.outcome["blocked"], seen.outcome["errors"], seen.addresses) == ([], [], set())
