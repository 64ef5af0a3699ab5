"""The page of a training run: its numbers from a log and a file of completions, and the page in Chromium."""

from __future__ import annotations

import json
import re

import pytest

from swift.trainers import curves
from tests.support.browser import needs_chromium, visit
from tests.support.builders import ROOT
from tools.reports.training_page import choose_groups, page_data
from tools.training_report import main

SHARED = ROOT / "tools" / "reports" / "templates" / "shared.css"
HOSTILE = "</script><b>bold</b>"


def row(step, group, rewards, advantage, **fields):
    text = f"<think>{HOSTILE}</think><answer>yes</answer>"
    return {
        "step": step,
        "group": f"{step}-{group}",
        "idx": group,
        "prompt": f"<|user|><|image_1|>Question {group}?<|end|><|assistant|>",
        "solution": "<answer>yes</answer>",
        "completion": text,
        "raw_completion_tokens": [[text[:10], text[10:], ""]],
        "per_token_logps": [[-0.5, -1.0, -0.25]],
        "rewards": rewards,
        "advantage": advantage,
        "finished": True,
        "in_loss": True,
        **fields,
    }


@pytest.fixture
def run(tmp_path):
    """Two steps of two groups of two; the second group of each step is flat. Weights are 1 and 2."""
    folder = tmp_path / "run"
    (folder / "checkpoint-1").mkdir(parents=True)
    arguments = {"reward_funcs": ["acc", "kg"], "reward_weights": [1.0, 2.0], "beta": 0.5, "model": HOSTILE}
    (folder / "args.json").write_text(json.dumps({"arguments": arguments}))
    log = [{"step": 1, "reward": 1.5, "kl": 0.0, "loss": 0.25, "rewards/acc": 0.5}, {"step": 1, "train_runtime": 9.0}]
    (folder / "checkpoint-1" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    rows = []
    for step in (1, 2):
        rows += [
            row(step, 7, {"acc": 1.0, "kg": 0.5}, 0.7),
            row(step, 7, {"acc": 0.0, "kg": 0.25}, -0.7, finished=False),
        ]
        # 1 + 2 * 0.5 = 0 + 2 * 1: equal in sum, though not in parts
        rows += [row(step, 8, {"acc": 1.0, "kg": 0.5}, 0.0), row(step, 8, {"acc": None, "kg": 1.0}, 0.0, in_loss=False)]
    lines = [json.dumps(one) for one in rows]
    (folder / "completions.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "re')
    return folder


def test_curves_are_the_log_and_go_on_with_what_completions_tell(run):
    panels = page_data(run, "", 10)["panels"]
    series = {one["label"]: (one["x"], one["y"]) for panel in panels for one in panel["series"]}
    # step 2 by hand: rewards 2, 0.5, 2, 2; std of (2, 0.5) = 1.5 / sqrt 2 = 1.0607, of (2, 2) = 0; one of four is
    # truncated
    assert series["reward"] == ([1, 2], [1.5, pytest.approx(6.5 / 4)])
    assert series["acc"] == ([1, 2], [0.5, pytest.approx(2 / 3)])
    assert series["reward std"] == ([2], [pytest.approx(1.0607 / 2, abs=1e-4)])
    assert series["zero spread groups"] == ([2], [0.5])
    assert series["truncated"] == ([2], [0.25])
    assert series["length"] == ([2], [3.0])
    assert series["kl"] == ([1], [0.0])


def test_groups_show_every_completion_with_its_rewards(run):
    data = page_data(run, "", 10)
    assert (data["steps"], data["sampled"], data["flat"], len(data["groups"])) == (2, 4, 2, 4)
    first, second, *_ = data["groups"]
    assert (first["step"], first["flat"], second["flat"]) == (1, False, True)
    assert [(one["reward"], one["advantage"], one["finished"]) for one in first["completions"]] == [
        (2.0, 0.7, True), (0.5, -0.7, False),
    ]  # fmt: skip
    assert second["completions"][1]["rewards"] == {"acc": None, "kg": 1.0}
    assert second["completions"][1]["tokens"]["nats"] == [50, 100, 25]
    assert "looks" not in second["completions"][1]["tokens"]


def test_groups_are_taken_evenly_with_both_ends():
    keys = [(step, str(group)) for step in range(50) for group in range(2)]
    chosen = sorted(choose_groups(keys, 5))
    assert len(chosen) == 5
    assert (keys[0], keys[-1]) == (chosen[0], chosen[-1])
    assert {step for step, _ in chosen} == {0, 12, 25, 37, 49}
    assert choose_groups(keys, 200) == set(keys)
    assert choose_groups(keys, 1) == {keys[0]}


def test_a_run_without_completions_has_curves_only(run):
    (run / "completions.jsonl").unlink()
    data = page_data(run, "", 10)
    assert data["groups"] == []
    assert "Loss" in {panel["title"] for panel in data["panels"]}


def test_an_unfinished_checkpoint_is_passed_over(run):
    (run / "checkpoint-2").mkdir()
    (run / "checkpoint-2" / "trainer_state.json").write_text("{")
    assert page_data(run, "", 10)["panels"][0]["series"][0]["y"][0] == 1.5


def test_what_is_no_run_or_broken_is_one_line_and_status_2(run, tmp_path, capsys):
    def error(*flags):
        assert main([*map(str, flags), "--output", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "holds no training run" in error(tmp_path)
    assert "--groups 0" in error(run, "--groups", 0)
    lines = (run / "completions.jsonl").read_text().splitlines()
    (run / "completions.jsonl").write_text("\n".join([lines[0], "{}", *lines[1:]]))
    assert "damaged at line 2 (field 'step' is missing)" in error(run)
    assert not (tmp_path / "out").exists()


def test_panels_are_those_with_values():
    history = [{"step": 1, "loss": 1.0, "rewards/a": 0.1}, {"step": 2, "loss": 0.5, "other": 3}]
    found = dict(curves.panels(history))
    assert set(found) == {"Reward", "Loss"}
    assert found["Loss"] == {"loss": ([1, 2], [1.0, 0.5])}


def test_a_metric_has_one_color_in_both_pictures_whichever_comes_first_in_the_log(run):
    log = [{"step": 1, "rewards/b": 1.0}, {"step": 2, "rewards/a": 0.5, "reward": 1.5}]
    (run / "checkpoint-1" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    (_, drawn), *_ = curves.panels(log)
    assert list(drawn) == ["reward", "rewards/a", "rewards/b"]
    page = next(panel for panel in page_data(run, "", 0)["panels"] if panel["title"] == "Reward")
    colors = re.findall(r"^\.run\d \{ --run: light-dark\((#\w+),", SHARED.read_text(), re.MULTILINE)
    shown = {one["label"]: colors[one["color"]] for one in page["series"] if one["label"] in "ab"}
    figure = {curves.curve_label(name): curves.COLORS[place] for place, name in enumerate(drawn)}
    assert shown == {name: figure[name] for name in "ab"}
    assert colors[1:] == list(curves.COLORS)


@needs_chromium
def test_numbers_of_any_size_fit_beside_their_axes(run, tmp_path):
    log = [{"step": step, "kl": 1.234e-5 * step, "loss": -1.5e8 * step, "reward": 0.3} for step in (1, 120_000)]
    (run / "checkpoint-1" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert main([str(run), "--output", str(tmp_path)]) == 0
    steps = """
    await pause(200);
    outcome.outside = all("#charts svg").flatMap((svg) => {
      const frame = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || box.bottom > frame.bottom + 2;
      }).map((text) => text.textContent);
    });
    outcome.texts = all("#charts svg text").length;
    """
    outcome = visit(tmp_path / "training.html", tmp_path / "visit", steps).outcome
    assert outcome["texts"] > 12
    assert (outcome["outside"], outcome["errors"]) == ([], [])


@needs_chromium
def test_the_page_draws_curves_and_walks_through_groups(run, tmp_path):
    assert main([str(run), "--output", str(tmp_path), "--title", HOSTILE]) == 0
    steps = """
    await pause(200);
    outcome.charts = all("#charts h3").map((head) => head.textContent);
    outcome.paths = all("#charts path").length;
    outcome.where = one("#where").textContent;
    outcome.rewards = all(".completion .marks").map((marks) => marks.textContent);
    press("j", document.body);
    outcome.next = [one("#where").textContent, all(".flat").map((mark) => mark.textContent)];
    pick("groups", "truncated");
    outcome.truncated = one("#where").textContent;
    type("no such words");
    outcome.none = [one("#where").textContent, all(".completion").length];
    type("question 7");
    one("#tokens").click();
    outcome.tokens = all(".completion:first-of-type .token").length;
    outcome.bold = all("#group b b, .completion p b").length;
    const svg = one("#charts svg");
    svg.focus();
    press("ArrowLeft"); press("ArrowLeft");
    outcome.read = one("#charts .keys").textContent;
    one("#theme").click();
    outcome.theme = document.documentElement.dataset.theme;
    """
    seen = visit(tmp_path / "training.html", tmp_path / "visit", steps)
    outcome = seen.outcome
    assert (outcome["errors"], outcome["blocked"], seen.addresses) == ([], [], set())
    assert {"Reward", "Loss", "Shares"} <= set(outcome["charts"])
    assert outcome["paths"] > 8
    assert outcome["where"] == "Step 1, group 1 of 4 shown"
    assert outcome["rewards"] == ["reward2acc1kg0.5advantage+0.70", "reward0.5acc0kg0.25advantage−0.70truncated"]
    assert outcome["next"] == ["Step 1, group 2 of 4 shown", ["no spread", "not in loss"]]
    assert outcome["truncated"] == "Step 1, group 1 of 2 shown"
    assert outcome["none"] == ["No group matches.", 0]
    assert outcome["tokens"] == 3
    assert outcome["bold"] == 0
    assert "step 1" in outcome["read"]
    assert outcome["theme"] == "dark"


def looking_rows(run) -> None:
    """All completions of the run with dependencies, but for the second one, which has no image."""
    lines = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()[:-1]]
    for place, one in enumerate(lines):
        one |= {"per_token_vision_dependency": None if place == 1 else [[0.04, 2.5, 0.25]], "vision_weight": 1.25}
    (run / "completions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_dependencies_are_thousandths_of_nats_beside_the_tokens(run):
    """(0.04 + 2.5 + 0.25) / 3 = 0.93 in either step, whose curve completions alone give."""
    looking_rows(run)
    data = page_data(run, "", 10)
    first, second = data["groups"][0]["completions"]
    assert (first["tokens"]["looks"], first["weight"]) == ([40, 2500, 250], 1.25)
    assert "looks" not in second["tokens"]
    panel = next(panel for panel in data["panels"] if panel["title"].startswith("Vision dependency"))
    assert panel["series"][0]["y"] == [pytest.approx(0.93)]


@needs_chromium
def test_tokens_are_shaded_by_what_they_owe_to_the_image(run, tmp_path):
    """The square root of 0.04 nats is 0.2, and from 1 nat on the shade is full."""
    looking_rows(run)
    assert main([str(run), "--output", str(tmp_path)]) == 0
    steps = """
    const toggles = () => all("#filters button").map((one) => one.getAttribute("aria-pressed"));
    one("#tokens").click();
    one("#looks").click();
    outcome.pressed = toggles();
    outcome.shades = all(".token").map((token) => Number(token.style.getPropertyValue("--look")));
    one(".token").focus();
    outcome.words = one(".tokeninfo").textContent;
    outcome.weight = one(".completion .marks").textContent;
    one("#looks").click();
    outcome.after = [...toggles(), all(".token").length];
    """
    outcome = visit(tmp_path / "training.html", tmp_path / "visit", steps).outcome
    assert outcome["errors"] == []
    assert outcome["pressed"] == ["false", "true"]
    assert outcome["shades"] == [0.2, 1, 0.5]
    assert outcome["words"].endswith("vision dependency 0.040 nats")
    assert outcome["weight"].endswith("vision weight1.25")
    assert outcome["after"] == ["false", "false", 0]


PROFILE = {
    "first_step": 2,
    "steps": 2,
    "device": "cpu",
    "bandwidth_gb_per_second": 25.1,
    "compute_tflops": 0.09,
    "trace": "trace.json.gz",
    "stages": [
        {"stage": "decode", "seconds": 1.5, "share": 0.75, "tokens_per_second": 1234.5, "compute_share": 0.01,
         "bandwidth_share": 0.625},
        {"stage": "reward", "seconds": 0.5, "share": 0.25},
    ],
}  # fmt: skip


@needs_chromium
def test_the_page_shows_where_a_step_goes(run, tmp_path):
    (run / "profile.json").write_text(json.dumps(PROFILE))
    assert main([str(run), "--output", str(tmp_path)]) == 0
    steps = """
    outcome.rows = all("#stages tbody tr").map((row) => [...row.children].map((cell) => cell.textContent));
    outcome.bars = all("#stages .part").map((part) => part.getBoundingClientRect().width);
    outcome.facts = one("#profile-facts").textContent;
    """
    outcome = visit(tmp_path / "training.html", tmp_path / "visit", steps).outcome
    assert outcome["rows"] == [
        ["decode", "1.500", "75.0%", "1,235", "1.0%", "62.5%"],
        ["reward", "0.500", "25.0%", "", "", ""],
    ]
    assert outcome["bars"][0] == pytest.approx(3 * outcome["bars"][1], rel=0.05)
    assert outcome["facts"].startswith("Mean of 2 steps from step 2 on, cpu.")
    assert outcome["errors"] == []


@pytest.mark.parametrize("content", [None, "{", "[]", '{"stages": 1}'])
def test_a_run_without_a_readable_profile_has_no_such_table(run, content):
    if content is not None:
        (run / "profile.json").write_text(content)
    assert page_data(run, "", 10)["profile"] is None
