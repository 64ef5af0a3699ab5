"""Values that are not finite are refused by name; finite ones pass."""

from __future__ import annotations

import pytest
import torch

from swift.trainers.finite import check_gradient, check_loss, check_weights
from swift.utils.errors import UserError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_names_its_step_and_evidence(value):
    with pytest.raises(UserError, match=r"step 7: the loss is (nan|-?inf), see group\.json; lower --learning_rate"):
        check_loss(torch.tensor(value), 7, ", see group.json")


@pytest.mark.parametrize("norm", [NAN, INF, torch.tensor(INF)])
def test_gradients_that_are_not_finite_are_refused(norm):
    with pytest.raises(UserError, match=r"step 3: the norm of the gradients is (nan|inf)"):
        check_gradient(norm, 3)


def test_weights_that_are_not_finite_are_named():
    state = {"good": torch.ones(2), "ids": torch.arange(3), "bad": torch.tensor([1.0, INF], dtype=torch.bfloat16)}
    with pytest.raises(UserError, match=r"checkpoint-4: 1 tensors hold values that are not finite, e\.g\. bad"):
        check_weights(state, "checkpoint-4")


def test_finite_values_pass():
    check_loss(torch.tensor(3e38), 1)
    check_gradient(None, 1)
    check_gradient(0.0, 1)
    check_weights({"a": torch.zeros(3, dtype=torch.bfloat16)}, "here")
