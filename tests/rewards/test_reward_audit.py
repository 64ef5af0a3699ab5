"""The audit of rewards: its attacks, its figures, its page, and the bar that the strict rewards have to pass."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import plugin
from ReXKG.finding_scores import findings_score
from tests.support.browser import needs_chromium, visit
from tools.audits.attacks import ATTACK_NAMES, PARAPHRASE, TRUTH, Attacks, make_record
from tools.audits.scoring import Scored, score_attacks, table_of, worst_cases
from tools.audits.sentences import flip, paraphrases
from tools.audits.signs import question_of
from tools.demo_world import facts, language
from tools.demo_world.dataset import WorldConfig, build_world
from tools.reward_audit import main
from utils.answers import has_think_answer_shape, think_text
from utils.get_knowledge_graph import finding_reader

HOSTILE = "</script><b>bold</b>"
PUBLISHED = "external_r1v_acc + external_kg_jac"
STRICT = "external_findings + external_acc_strict + external_consistency"


@pytest.fixture(scope="module")
def items():
    """Evaluation records of a small demo world, without its pictures."""
    world = build_world(WorldConfig(seed=5, patients=(0, 0, 40), eval_questions=60))
    return [record for path, records in world.files.items() if path.startswith("eval/") for record in records]


@pytest.fixture(scope="module")
def records(items):
    return [make_record(item, item["question"], item["explanation"]) for item in items]


@pytest.fixture(scope="module")
def scored(records):
    names = [*PUBLISHED.split(" + "), *STRICT.split(" + ")]
    rewards = [(name, plugin.orms[name]()) for name in names]
    sets = [PUBLISHED.split(" + "), STRICT.split(" + ")]
    return score_attacks(records, Attacks(records, finding_reader()), rewards, sets)


@pytest.fixture(scope="module")
def table(scored, records):
    return table_of(scored, records)


@pytest.mark.parametrize("attack", [name for name in ATTACK_NAMES if name not in (TRUTH, PARAPHRASE)])
def test_no_attack_earns_as_much_as_the_truth(table, attack):
    assert table[attack][STRICT].success.mean <= 0.05


def test_paraphrases_keep_their_reward(table):
    assert table[PARAPHRASE][STRICT].success.mean >= 0.95
    assert table[PARAPHRASE]["external_findings"].success.mean >= 0.95


def test_the_published_rewards_fail_where_they_are_known_to(table):
    assert table["repetition"][PUBLISHED].success.mean == 1.0
    assert table["yes, no"][PUBLISHED].success.mean == 1.0
    assert table[PARAPHRASE]["external_kg_jac"].success.mean < 0.9


def test_every_attack_is_made_and_differs_from_the_truth(records):
    attacks = Attacks(records, finding_reader())
    made = [attacks.completions(position) for position in range(len(records))]
    assert {name for completions in made for name in completions} == set(ATTACK_NAMES)
    for record, completions in zip(records, made, strict=True):
        assert completions[TRUTH] == [record.solution]
        others = [text for name, texts in completions.items() if name not in (TRUTH, PARAPHRASE) for text in texts]
        assert record.solution not in others
        spammed = completions.get("several answer tags", [])
        assert all(has_think_answer_shape(text) for text in others if "<think>" in text and text not in spammed)


def test_attacks_depend_on_the_seed_alone(records):
    first, second = (Attacks(records, finding_reader(), seed=3).completions(7) for _ in range(2))
    assert first == second


def test_another_reasoning_is_of_another_patient(records):
    attacks = Attacks(records, finding_reader())
    by_reasoning = {}
    for record in records:
        by_reasoning.setdefault(record.reasoning, set()).add(record.item["subject_id"])
    for position, record in enumerate(records):
        (text,) = attacks.completions(position)["another's reasoning"]
        assert by_reasoning[think_text(text)] != {record.item["subject_id"]}


@pytest.mark.parametrize(
    ("kind", "sentence", "expected"),
    [
        ("polarity", "There is a small left effusion", "There is no small left effusion"),
        ("polarity", "There is no nodule in the left lung", "There is nodule in the left lung"),
        ("polarity", "No nodule is seen in the left lung", "There is nodule in the left lung"),
        ("polarity", "Mild edema is present", "No mild edema is seen"),
        ("polarity", "The heart size is normal", "The heart is enlarged"),
        ("polarity", "The left lung is clear", "The left lung is not clear, there is an abnormality"),
        ("polarity", "The left effusion has increased in the interval", "No left effusion is seen"),
        ("polarity", "Hello", None),
        ("side", "There is a left effusion", "There is a right effusion"),
        ("side", "There is edema", None),
        ("severity", "Small effusion", "large effusion"),
        ("course", "The edema has increased", "The edema has decreased"),
        ("course", "The edema is seen", None),
    ],
)
def test_a_fact_is_turned_round(kind, sentence, expected):
    assert flip(kind, sentence) == expected


def test_paraphrases_change_words_and_no_fact():
    text = (
        "There is a small left pneumothorax. The heart size is normal. The left nodule has increased in the interval."
    )
    read = finding_reader()
    (truth,) = read([text])
    assert len(set(paraphrases(text))) == len(paraphrases(text))
    for other in read(paraphrases(text)):
        assert set(other.findings) == set(truth.findings)


def facts_of_the_demo():
    for kind in facts.FINDING_KINDS.values():
        for side in facts.SIDES if kind.sided else (None,):
            for severity in kind.severities or (None,):
                finding = facts.Finding(kind.name, side, (kind.zones or (None,))[0], severity)
                yield from (language.finding_present(finding), language.finding_new(finding))
                yield from (language.finding_resolved(finding), language.finding_trend(finding, "decreased"))
        yield from (language.thing_absent(kind.name), language.absent_on_both(kind.name))
        yield from (language.thing_absent(kind.name, region) for region in facts.REGIONS)
        yield from (language.none_of((kind.name, device), facts.REGIONS[1]) for device in facts.DEVICES)
    for device in facts.DEVICES:
        yield from (language.device_present(device), language.device_same(device, True))
        yield from (language.device_change(device, placed) for placed in (True, False))
    yield from (language.all_clear(), language.no_devices(), *map(language.region_clear, facts.REGIONS))


def test_wordings_of_one_fact_are_the_same_findings():
    read = finding_reader()
    for fact in facts_of_the_demo():
        readings = read(fact.wordings)
        assert readings[0].findings
        for first, second in itertools.permutations(readings, 2):
            assert findings_score(first.findings, second.findings) == 1.0, fact


def test_figures_of_an_attack_by_hand():
    # Truths earn 1, 0.5 and 0. The attack earns 1 (as much), 0.25 and None, which counts 0 (as much): 2 of 3.
    scored = Scored(
        np.array([0, 1, 2, 0, 1, 2]),
        [TRUTH] * 3 + ["padding"] * 3,
        list("abcdef"),
        np.array([[1.0], [0.5], [0.0], [1.0], [0.25], [np.nan]]),
        {"reward": [0]},
    )
    records = [make_record({"subject_id": number}, "", "<answer>x</answer>") for number in range(3)]
    cell = table_of(scored, records)["padding"]["reward"]
    assert cell.success.mean == pytest.approx(2 / 3)
    assert cell.mean.mean == pytest.approx(1.25 / 3)
    assert worst_cases(scored, "padding", "reward", 2) == [3, 5]


def test_a_record_in_prose_gets_tags():
    record = make_record({"answer": ["Yes"]}, "Is there edema?", "There is edema. So the answer is yes.")
    assert record.solution == "<think>There is edema. So the answer is yes.</think><answer>yes</answer>"


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("<|user|><|image_1|>Is there edema?<|end|><|assistant|>", "Is there edema?"),
        ("<|im_start|>user\nIs there edema?<|im_end|>\n<|im_start|>assistant\n", "Is there edema?"),
        ("Is there edema?", "Is there edema?"),
        ("", ""),
    ],
)
def test_the_question_is_found_in_a_prompt(prompt, question):
    assert question_of(prompt) == question


@pytest.fixture
def dataset(tmp_path, items):
    path = tmp_path / "records.json"
    path.write_text(json.dumps(items[:40]))
    return path


def test_the_command_audits_records(dataset, tmp_path, capsys):
    assert main(["--dataset", str(dataset), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("40 records, read with lexicon-")
    for name in ("audit.html", "audit.csv", "audit.md"):
        assert "empty reasoning" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_the_command_audits_other_rewards(dataset, tmp_path, capsys):
    reward = tmp_path / "brevity.py"
    reward.write_text(
        "from swift.plugin import orms\n"
        "orms['brevity'] = lambda completions, **columns: [1 / (1 + len(text)) for text in completions]\n"
    )
    flags = ["--external_plugins", str(reward), "--reward_funcs", "brevity", "--output", str(tmp_path / "out")]
    assert main(["--dataset", str(dataset), *flags]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("empty reasoning"))
    assert "1.000 [1.000, 1.000]" in row


def completions_file(folder, count=12):
    """A run whose completions say nothing in the last third and earn more for it."""
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps({"arguments": {"reward_funcs": ["a"], "reward_weights": [2.0]}}))
    rows = []
    for step in range(1, count + 1):
        late = step > 8
        rows.append({
            "step": step, "group": f"{step}-1", "prompt": f"<|user|>Is there edema? {HOSTILE}<|end|><|assistant|>",
            "solution": "<think>There is edema.</think><answer>yes</answer>",
            "completion": "<think></think><answer>yes, no</answer>" if late
            else "<think>There is edema.</think><answer>yes</answer>",
            "rewards": {"a": 1.0 if late else 0.5},
        })  # fmt: skip
    path = folder / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_finds_signs_in_completions(tmp_path, capsys):
    path = completions_file(tmp_path / "run")
    assert main(["--completions", str(path), "--output", str(tmp_path / "out")]) == 0
    rows = {line[:26].strip(): line[26:].split("   ") for line in capsys.readouterr().out.splitlines()}
    # 4 of 12 completions are empty; they earn 2 * 1, the others 2 * 0.5.
    share, with_sign, without = (cell.strip() for cell in rows["empty reasoning"] if cell.strip())
    assert share.startswith("0.333")
    assert with_sign.startswith("2.000")
    assert without.startswith("1.000")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --dataset with records or --completions"),
        (["--dataset", "gone.json"], "--dataset gone.json is not a file"),
        (["--completions", "gone.jsonl"], "--completions gone.jsonl is not a file"),
        (["--dataset", "x", "--max_records", "0"], "--max_records 0 must be 1 or more"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path, capsys):
    assert main([*flags, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_references_is_refused(tmp_path, capsys):
    path = tmp_path / "records.json"
    path.write_text('[{"question": "Why?"}]')
    assert main(["--dataset", str(path), "--output", str(tmp_path)]) == 2
    assert "has no record with a reference" in capsys.readouterr().err


@needs_chromium
def test_the_page_shows_the_worst_cases_of_a_cell(dataset, tmp_path):
    main(["--dataset", str(dataset), "--output", str(tmp_path)])
    steps = """
      outcome.rows = all("#matrix tbody tr").length;
      one('[aria-label="repetition, r1v_acc + kg_jac"]').click();
      outcome.which = one("#which").textContent;
      outcome.cases = all("#cases article").length;
      outcome.bad = one('[aria-label="repetition, r1v_acc + kg_jac"]').className;
      outcome.good = one('[aria-label="repetition, findings + acc_strict + consistency"]').className;
      all("#numbers button")[1].click();
      outcome.mean = one('[aria-label="repetition, r1v_acc + kg_jac"]').textContent;
    """
    found = visit(tmp_path / "audit.html", tmp_path / "visit", steps)
    assert found.outcome["errors"] == found.outcome["blocked"] == []
    # The truth has no row, and the first 40 records compare no images, so that no course is turned round.
    assert found.outcome["rows"] == len(ATTACK_NAMES) - 2
    assert found.outcome["which"].startswith("repetition, r1v_acc + kg_jac: what earns most")
    assert found.outcome["cases"] == 8
    assert (found.outcome["bad"], found.outcome["good"]) == ("bad", "good")
    assert found.outcome["mean"].startswith("2.00")
    assert found.addresses == set()


@needs_chromium
def test_the_page_of_a_run_shows_text_as_text(tmp_path):
    path = completions_file(tmp_path / "run")
    main(["--completions", str(path), "--output", str(tmp_path)])
    steps = """
      outcome.bold = all("#cases b").length;
      outcome.text = one("#cases h3").textContent;
      outcome.columns = all("#matrix thead th").map((cell) => cell.textContent);
    """
    found = visit(tmp_path / "audit.html", tmp_path / "visit", steps)
    assert found.outcome["errors"] == []
    assert found.outcome["bold"] == 0
    assert HOSTILE in found.outcome["text"]
    assert found.outcome["columns"][2:] == [
        "steps 1 to 4",
        "steps 5 to 8",
        "steps 9 to 12",
        "reward with",
        "reward without",
    ]
