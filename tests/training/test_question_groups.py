"""Questions that share their images train in one row, and the loss is that of separate rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swift.engine.logprobs import completion_logprobs
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import load_records
from swift.llm.images.source import ImageSource
from swift.llm.template.phi4 import Phi4Template
from swift.trainers.question_groups import QuestionGroups, collate_groups, group_records


@pytest.fixture(scope="module")
def policy(world):
    return load_policy(world / "policy")


@pytest.fixture(scope="module")
def template(policy):
    return Phi4Template(policy.tokenizer, policy.image_processor, policy.model.config.vision_config.image_token_id)


@pytest.fixture(scope="module")
def records(world):
    """Three questions about one image, two about another, questions and solutions of different lengths."""
    base = load_records([world / "data" / "train.json"])
    first, second = next((a, b) for a in base for b in base if a.images != b.images and a.images and b.images)
    texts = [
        ("Is there a nodule?", "<think>No nodule is seen.</think><answer>no</answer>"),
        ("Is there an effusion on the left?", "<answer>yes</answer>"),
        ("List all findings.", "<think>There is a small effusion. The heart is large.</think><answer>a, b</answer>"),
        ("Which side?", "left"),
        ("Which view is this, ap or pa?", "<answer>ap</answer>"),
    ]
    return [
        replace(first if row < 3 else second, messages=({"role": "user", "content": question},), solution=solution)
        for row, (question, solution) in enumerate(texts)
    ]


def log_likelihood(policy, template, groups, packed):
    prompts, completions, learned = collate_groups(groups, template)
    logps = completion_logprobs(policy.model, prompts, completions, packed=packed).logps
    return (logps * learned).sum(), int(learned.sum())


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_a_group_scores_as_its_questions_alone(policy, template, records, packed):
    grouped = QuestionGroups(records, template, size=3)
    alone = QuestionGroups(records, template, size=1)
    assert [len(group) for group in grouped] == [3, 2]
    together, tokens = log_likelihood(policy, template, list(grouped), packed)
    parts = [log_likelihood(policy, template, [group], packed=False) for group in alone]
    assert tokens == sum(count for _, count in parts)
    assert float(together) == pytest.approx(sum(float(value) for value, _ in parts), rel=1e-5)


def test_a_group_has_the_gradients_of_its_questions_alone(policy, template, records):
    policy.model.requires_grad_(True)
    gradients = []
    for size in (3, 1):
        policy.model.zero_grad()
        groups = list(QuestionGroups(records, template, size))
        value, tokens = log_likelihood(policy, template, groups, packed=size > 1)
        (value / tokens).backward()
        gradients.append({n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


def test_only_solutions_and_their_ends_are_learned(template, records):
    _, completions, learned = collate_groups([QuestionGroups(records, template, 3)[0]], template)
    for row, record in enumerate(records[:3]):
        solution = completions.ids[row][learned[row]].tolist()
        assert solution == template.encode_completion(record.solution)


def test_records_group_by_their_images_in_order_of_appearance(records):
    # Images: A A A B B, then A again: the first group of A is full.
    assert group_records([*records, records[0]], 3) == [[0, 1, 2], [3, 4], [5]]
    assert group_records([records[3], records[0], records[4], records[1]], 2) == [[0, 2], [1, 3]]
    assert group_records(records, 1) == [[0], [1], [2], [3], [4]]


def test_records_without_images_or_with_images_in_their_text_stay_alone(records):
    placed = replace(records[0], messages=({"role": "user", "content": "In <image>, is there a nodule?"},))
    bare = replace(records[0], images=())
    assert group_records([placed, placed, bare, bare, records[0], records[1]], 4) == [[0], [1], [2], [3], [4, 5]]


def test_images_are_compared_as_a_whole(records):
    pair = replace(records[0], images=(*records[0].images, *records[3].images))
    assert group_records([pair, records[0], pair], 4) == [[0, 2], [1]]
    assert isinstance(pair.images[0], ImageSource)
