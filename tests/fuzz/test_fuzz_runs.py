"""Result files, run folders, sweeps and partial answers with wrong values anywhere: a page, or one line."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swift.evaluation.partial_results import read_partial
from swift.trainers.rlhf_trainer.completions_log import CompletionsLog
from tests.support.fuzzing.values import (
    VALUES,
    check_command,
    damaged,
    documents,
    fuzz,
    json_bytes,
    mutated,
    refusal,
    snapshot,
)
from tests.support.report_runs import TRUTH, result
from tools import evaluation_report, privacy, summarize, training_report
from tools.kg_audit.graph_files import read_graphs

TOKENS = ["<think>", "There is", " none.</think>", "<answer>no</answer>"]
ROWS = [
    result(n, "".join(TOKENS), "a.png", samples=None, generated_tokens=TOKENS, token_logprobs=[-0.5, -1.0, -2.0, -0.1],
           token_entropies=[0.1] * 4, token_ranks=[1] * 4, content_type="presence", question_type="q", study_id="s1",
           token_alternatives=[[{"token": "a", "logprob": -1.5}]] * 4)
    for n in range(2)
]  # fmt: skip
SETTINGS = {"format": 1, "weights": ["a"], "questions": "b", "control": "none", "seed": 0, "temperature": 0.0}
RESULTS = {
    "dataset": "d", "checkpoint": "c", "control": "none", "decoding": "greedy", "settings": SETTINGS, "images": "e",
    "num_skipped": 1, "skipped": [{"id": 9, "source": "s", "reason": "r"}], "accuracy": 0.5, "results": ROWS,
    "calibration": {"ece": {"mean": 0.1, "lo": 0.0, "hi": 0.2}, "auroc": None, "bins": [
        {"low": 0.0, "high": 0.1, "count": 2, "confidence": 0.05, "accuracy": 0.5}]},
}  # fmt: skip
COMPLETION = {
    "step": 1, "group": "1-0", "idx": 3, "prompt": "<|user|>Is there?<|end|>", "solution": TRUTH, "completion": "a b",
    "raw_completion_tokens": [["a", " b"]], "token_ids": [5, 6], "per_token_logps": [[-1.0, -2.0]], "advantage": 0.5,
    "rewards": {"acc": 1.0, "kg": None}, "finished": True, "in_loss": True, "vision_weight": 1.0,
    "per_token_vision_dependency": [[0.1, 0.2]],
}  # fmt: skip
ARGUMENTS = {
    "arguments": {"reward_funcs": ["acc", "kg"], "reward_weights": [1.0, 0.5], "model": "m", "dataset": ["d"]},
    "command": ["rlhf.py", "--seed", "0", "--reward_funcs", "a"], "environment": {"KG_TEXT": "think"},
}  # fmt: skip
STATE = {"global_step": 2, "max_steps": 2, "log_history": [{"step": 1, "reward": 0.5, "rewards/acc": 1.0, "kl": 0.1}]}
PROFILE = {
    "first_step": 2, "steps": 1, "device": "cpu", "bandwidth_gb_per_second": 1.0, "compute_tflops": 0.1,
    "stages": [{"stage": "decode", "seconds": 1.0, "share": 0.5, "tokens_per_second": 3.0}],
}  # fmt: skip
ENTRY = {
    "tag": "t", "folder": "t", "seed": "0", "status": "finished", "reason": "", "policy": "uniform", "size": "8",
    "learning_rate": "1e-5", "generations": "8", "beta": "0.1", "rewards": "external_r1v_acc",
}  # fmt: skip
RUN = {"data_sha256": "a", "evaluation": {"flags": {"seed": ["0"]}, "files": ["a_results.json"], "checkpoint": "c"}}
PARTIAL = [
    {"header": {"settings": {}, "facts": {}, "batching": {"questions": 2, "tokens": None}}},
    {"run": {"host": "h"}},
    {"index": 0, "question": "a", "answers": [{"text": "x", "num_tokens": 1, "finished": True}]},
    {"batch": {"questions": 1, "seconds": 0.5}},
]
RELATION = {"source_entity": "small", "target_entity": "effusion", "type": "modify"}
ENTITIES = {"small": "concept", "effusion": "disorder_present"}
GRAPHS = [{"sentences": "small effusion", "entities": ENTITIES, "relations": [RELATION], "doc_key": "0"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def with_lexicon(lexicon):
    """The built-in extractor."""


def run(command, *words) -> None:
    """Run a command that reads a folder, and check that it changes nothing there."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = command.main([str(word) for word in words])
    check_command(status, errors.getvalue())


def put(folder, **contents: bytes) -> None:
    """Write files into a folder that holds nothing else. "__" in a name stands for a slash, and "_" before the
    extension for a dot."""
    for name, content in contents.items():
        stem, _, extension = name.rpartition("_")
        path = folder / f"{stem.replace('__', '/')}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@fuzz(200)
@given(content=documents(RESULTS))
@example(content=json_bytes(RESULTS | {"num_skipped": "x"}))
@example(content=json_bytes(RESULTS | {"settings": {"weights": 5}}))
def test_result_files(folder, content):
    put(folder / "results", a_results_json=content)
    before = snapshot(folder / "results")
    run(evaluation_report, folder / "results", "--output", folder / "page")
    assert snapshot(folder / "results") == before


@fuzz(150)
@given(rows=st.lists(mutated(COMPLETION).map(json_bytes) | VALUES.map(json_bytes), min_size=1, max_size=3),
       end=st.sampled_from([b"\n", b"", b"\n{", b"\n\xff\n"]))  # fmt: skip
@example(rows=[b"5"], end=b"\n")
@example(rows=[json_bytes(COMPLETION), '{"completion": "größer'.encode()[:-4]], end=b"")
def test_completions(folder, rows, end):
    content = b"\n".join([json_bytes(COMPLETION), *rows]) + end
    put(folder / "completions", completions_jsonl=content, args_json=json_bytes(ARGUMENTS))
    before = snapshot(folder / "completions")
    run(training_report, folder / "completions", "--output", folder / "page")
    assert snapshot(folder / "completions") == before
    refusal(lambda: CompletionsLog(folder / "completions" / "completions.jsonl").truncate(1))
    left = (folder / "completions" / "completions.jsonl").read_bytes()
    assert left == content or all(line in content for line in left.splitlines())


@fuzz(100)
@given(arguments=documents(ARGUMENTS), state=documents(STATE), profile=documents(PROFILE))
def test_run_folders(folder, arguments, state, profile):
    files = {"args_json": arguments, "checkpoint-2__trainer_state_json": state, "profile_json": profile}
    put(folder / "run", **files, completions_jsonl=json_bytes(COMPLETION) + b"\n")
    run(training_report, folder / "run", "--output", folder / "page")


@fuzz(60)
@given(sweep=documents({"runs": {"t": ENTRY, "u": ENTRY | {"folder": "u", "seed": "1"}}}), record=documents(RUN),
       arguments=documents(ARGUMENTS), state=documents(STATE))  # fmt: skip
def test_sweeps(folder, sweep, record, arguments, state):
    files = {"run_json": record, "args_json": arguments, "checkpoint-2__trainer_state_json": state}
    put(folder / "sweep" / "t", **files, eval__a_results_json=json_bytes(RESULTS))
    put(folder / "sweep", sweep_json=sweep)
    before = snapshot(folder / "sweep")
    run(summarize, folder / "sweep", "--output", folder / "page")
    assert snapshot(folder / "sweep") == before


@fuzz(150)
@given(lines=st.lists(st.sampled_from(PARTIAL).flatmap(mutated) | st.sampled_from(PARTIAL), max_size=5),
       damage=st.booleans(), data=st.data())  # fmt: skip
@example(lines=[PARTIAL[0], {"index": 7}], damage=False, data=None)
@example(lines=[{"header": []}], damage=False, data=None)
def test_partial_answers(folder, lines, damage, data):
    content = b"".join(json_bytes(line) + b"\n" for line in [PARTIAL[0], *lines])
    (folder / "a.partial.jsonl").write_bytes(data.draw(damaged(content)) if damage else content)
    refusal(lambda: read_partial(folder / "a.partial.jsonl"))


@fuzz(100)
@given(content=documents(GRAPHS))
def test_graph_files(folder, content):
    (folder / "a_kg.json").write_bytes(content)
    refusal(lambda: read_graphs(folder / "a_kg.json"))


@fuzz(20)
@given(results=documents(RESULTS), rows=st.lists(mutated(COMPLETION), max_size=2), arguments=documents(ARGUMENTS))
def test_copies_without_patient_data(folder, results, rows, arguments):
    """A copy is made, or refused in one line; the search for leaks never fails for a damaged file."""
    lines = b"".join(json_bytes(row) + b"\n" for row in rows)
    put(folder / "shared", a_results_json=results, completions_jsonl=lines, args_json=arguments)
    before = snapshot(folder / "shared")
    target = folder / f"copy{len(list(folder.glob('copy*')))}"
    run(privacy, folder / "shared", "--redact", target)
    assert snapshot(folder / "shared") == before
    texts = json.dumps([content.decode() for content in snapshot(target).values()]) if target.exists() else ""
    assert "effusion" not in texts
