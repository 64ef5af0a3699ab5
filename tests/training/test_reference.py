"""The snapshot stands in for a second model."""

from __future__ import annotations

import copy

import pytest
import torch

from swift.engine.logprobs import completion_logprobs
from swift.trainers.reference import Snapshot
from tests.support.builders import random_completions, random_prompts, run_python, tiny_model, train_adapter_and_head
from utils.freezing import untie_head


def trained_away(model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


@pytest.mark.parametrize("untie", [False, True], ids=["tied head", "untied head"])
def test_snapshot_equals_a_deep_copy_of_the_model(untie):
    model = tiny_model()
    if untie:
        untie_head(model)
    train_adapter_and_head(model)
    twin, snapshot = copy.deepcopy(model), Snapshot.of(model)
    trained_away(model)
    prompts, completions = random_prompts(), random_completions(6)
    own = completion_logprobs(model, prompts, completions).logps
    with snapshot.swapped_into(model):
        logps = completion_logprobs(model, prompts, completions).logps
    assert torch.equal(logps, completion_logprobs(twin, prompts, completions).logps)
    assert not torch.allclose(logps, own)
    assert torch.equal(completion_logprobs(model, prompts, completions).logps, own)


def test_the_policy_comes_back_after_an_error():
    model = tiny_model()
    train_adapter_and_head(model)
    snapshot = Snapshot.of(model)
    trained_away(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), snapshot.swapped_into(model):
        raise RuntimeError("inside")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_snapshot_holds_trainable_tensors_only():
    model = tiny_model()
    train_adapter_and_head(model)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert Snapshot.of(model).values.keys() == names


def test_a_divided_model_that_has_just_run_takes_the_values_of_a_snapshot():
    """FSDP2's root holds whole parameters after a forward. Values were written over them after they had been freed."""
    result = run_python("tests.support.processes.fsdp_reference")
    assert result.returncode == 0, result.stderr
    differences = [float(line) for line in result.stdout.split()]
    assert len(differences) == 6
    assert max(differences) < 1e-6
