"""Probabilities of tokens equal those of a forward pass from scratch, and their texts join to the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import evaluate_token_prob
from swift.engine import chunked_head
from swift.engine.chunked_head import token_choices
from swift.evaluation.answering import AnswerTask, answer_batches, drawn, greedy
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import load_records
from swift.llm.images.dynamic_hd import collate
from swift.llm.template.phi4 import Phi4Template

TOLERANCE = 1e-5
TEXT = "α→β, 5 µm: 肺炎 😀 é."


@pytest.fixture(scope="module")
def policy(world):
    policy = load_policy(world / "policy")
    return policy, Phi4Template(
        policy.tokenizer, policy.image_processor, policy.model.config.vision_config.image_token_id
    )


@pytest.fixture(scope="module")
def records(world):
    return load_records([world / "data" / "train.json"])


def answers(policy, records, task, batches=((0, 1, 2, 3, 4), (5, 6))):
    found = [one for batch in answer_batches(*policy, records, batches, task) for one in batch]
    return [(records[one.index], answer) for one in found for answer in one.answers]


@torch.no_grad()
def from_scratch(policy, record, ids) -> torch.Tensor:
    """log-probabilities [C, V]: one unpadded forward of prompt and answer, all logits, log_softmax in float64."""
    model, template = policy[0].model, policy[1]
    prompt = template.encode_prompt(record)
    row = torch.cat([prompt.input_ids, torch.tensor(ids)])[None]
    logits = model(row, **collate(list(prompt.images))).logits[0]
    return logits[len(prompt.input_ids) - 1 : -1].double().log_softmax(dim=-1)


@pytest.mark.parametrize(("samples", "temperature"), [(1, 0.0), (3, 0.8)], ids=["greedy", "three samples"])
def test_numbers_equal_a_forward_pass_from_scratch(policy, records, monkeypatch, samples, temperature):
    monkeypatch.setattr(chunked_head, "CHUNK_ELEMENTS", 7 * 512)  # seven tokens a chunk, so that there are many
    task = AnswerTask(drawn(policy[1], 8, temperature), samples, alternatives=4)
    found = answers(policy, records, task)
    assert len(found) == 7 * samples
    for record, answer in found:
        expected, scores = from_scratch(policy, record, answer.token_ids), answer.scores
        chosen = expected[torch.arange(len(expected)), torch.tensor(answer.token_ids)]
        assert torch.tensor(scores.logprobs).double() == pytest.approx(chosen, abs=TOLERANCE)
        entropy = -(expected.exp() * expected).sum(dim=-1)
        assert torch.tensor(scores.entropies).double() == pytest.approx(entropy, abs=TOLERANCE)
        highest = 1 + (expected > chosen[:, None] + TOLERANCE).sum(dim=-1)  # if all that are nearly equal come after it
        lowest = (expected >= chosen[:, None] - TOLERANCE).sum(dim=-1)
        assert all(best <= rank <= worst for best, rank, worst in zip(highest, scores.ranks, lowest, strict=True))
        best = expected.topk(4, dim=-1)
        for place, options in enumerate(scores.alternatives):
            assert [logprob for _, logprob in options] == pytest.approx(best.values[place].tolist(), abs=TOLERANCE)
            assert options[0][0] == policy[1].tokenizer.decode([int(best.indices[place, 0])])
    if samples > 1:
        assert any(rank > 1 for _, answer in found for rank in answer.scores.ranks)


def test_probabilities_over_the_vocabulary_sum_to_one(policy, records):
    task = AnswerTask(greedy(policy[1], 5), alternatives=512)  # the whole vocabulary
    for _, answer in answers(policy, records, task):
        for options in answer.scores.alternatives:
            assert sum(torch.tensor([value for _, value in options]).double().exp()) == pytest.approx(1, abs=TOLERANCE)


def test_tokens_join_to_what_was_written(policy, records):
    for record, answer in answers(policy, records, AnswerTask(drawn(policy[1], 30, 1.5), 4, alternatives=0)):
        assert "".join(answer.scores.tokens) == answer.text, record.source
        assert len(answer.scores.tokens) == len(answer.token_ids)


def test_tokens_of_characters_of_several_bytes_join_to_a_given_text(policy, records):
    task = AnswerTask(greedy(policy[1], 1), alternatives=0, given=lambda record: TEXT)
    for record, answer in answers(policy, records, task):
        assert answer.text == "".join(answer.scores.tokens) == TEXT
        assert len(answer.token_ids) > len(TEXT)  # this vocabulary spells such characters in bytes
        assert answer.scores.tokens[-1] == ""  # the end token is scored too
        chosen = from_scratch(policy, record, answer.token_ids)
        expected = chosen[torch.arange(len(chosen)), torch.tensor(answer.token_ids)]
        assert torch.tensor(answer.scores.logprobs).double() == pytest.approx(expected, abs=TOLERANCE)


def test_equally_likely_tokens_share_a_rank():
    # logits 2 0 2 1 in both rows: token 0 has none above it, token 3 has two, token 1 has three
    hidden, weight = torch.ones(3, 1), torch.tensor([[2.0], [0.0], [2.0], [1.0]])
    choices = token_choices(hidden, weight, None, torch.tensor([0, 3, 1]), 1.0, 2)
    assert choices.ranks.tolist() == [1, 3, 4]
    assert sorted(choices.top_ids[0].tolist()) == [0, 2]


def run(world: Path, output: Path, *more: object) -> int:
    words = ["--model_path", world / "policy", "--annotation_file", world / "data" / "train.json", "--no_tqdm"]
    words += ["--output_dir", output, "--max_new_tokens", 6, "--max_samples", 4, *more]
    return evaluate_token_prob.main(list(map(str, words)))


def test_the_file_has_a_number_for_each_token(world, tmp_path):
    assert run(world, tmp_path, "--top_k_alternatives", 2) == 0
    document = json.loads((tmp_path / "policy_train_checkpoint_token_prob.json").read_text())
    names = ["probabilities", "logprobs", "entropies", "ranks", "alternatives"]
    for row in document["results"]:
        assert "".join(row["generated_tokens"]) == row["generated_text"]
        for name in names:
            assert len(row[f"token_{name}"]) == row["num_tokens"]
        logprobs = torch.tensor(row["token_logprobs"]).double()
        assert torch.tensor(row["token_probabilities"]).double() == pytest.approx(logprobs.exp(), rel=1e-6)
        first = row["token_alternatives"][0][0]
        assert first["logprob"] == row["token_logprobs"][0]  # greedy takes the most likely one
        assert set(first) == {"token", "logprob"}
    assert {"mean", "lo", "hi"} == set(document["metrics"]["confidence"])
    assert set(document["calibration"]) == {"right_by", "ece", "auroc", "brier", "bins"}


def test_a_given_text_is_scored_in_place_of_one_that_is_written(world, tmp_path):
    assert run(world, tmp_path, "--given", "explanation") == 0
    document = json.loads((tmp_path / "policy_train_checkpoint_given_explanation_token_prob.json").read_text())
    for row in document["results"]:
        assert row["given_text"] == row["explanation"] == "".join(row["given_tokens"])
        assert len(row["given_tokens"]) == len(row["given_token_logprobs"]) == len(row["given_token_ranks"])
        assert "generated_text" not in row
    assert "accuracy" not in document
    total = sum(sum(row["given_token_logprobs"]) for row in document["results"]) / 4
    assert document["metrics"]["given_logprob"]["mean"] == pytest.approx(total)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--given", "report"], ["record 0", "'report'", "name another field"]),
        (["--given", "answer", "--num_samples", 2, "--temperature", 1], ["--given", "--num_samples"]),
        (["--top_k_alternatives", -1], ["--top_k_alternatives -1"]),
        (["--num_samples", 3], ["--num_samples 3", "--temperature"]),
        (["--temperature", -0.5], ["--temperature -0.5"]),
        (["--shard", "3/2"], ["--shard 3/2", "2/4"]),
        (["--shard", "first"], ["--shard first"]),
        (["--batch_size", "many"], ["--batch_size many", "auto"]),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(world, tmp_path, capsys, more, words):
    assert run(world, tmp_path, *more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())
