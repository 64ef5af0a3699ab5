"""A profile of a few steps: stages one inside the other, their work, and the files of a profiled run."""

from __future__ import annotations

import gzip
import json
import time

import pytest
import torch

from swift.trainers.profile.limits import Limits, Sizes
from swift.trainers.profile.step_profile import lines, stage_rows
from swift.utils.stages import StageMeter, StageWork, count_work, listening, stage, staged
from tests.support import sft_runs
from tests.support.builders import tiny_model
from tests.support.grpo_runs import make_trainer

SIZES = Sizes(decoder=100, head=10, trained=20, itemsize=2)
LIMITS = Limits(bandwidth=1000.0, compute=10_000.0)


def test_inner_stages_do_not_count_for_outer_ones():
    meter = StageMeter(lambda: None)
    with listening(meter), stage("outer"):
        time.sleep(0.02)
        with stage("inner"):
            time.sleep(0.05)
            count_work(7, 3)
        count_work(5, 1)
    taken = meter.take()
    assert 0.02 <= taken["outer"].seconds < 0.05 <= taken["inner"].seconds
    assert (taken["inner"].tokens, taken["inner"].head_tokens, taken["inner"].passes) == (7, 3, 1)
    assert taken["outer"].tokens == 5
    assert meter.take().keys() == {"other"}


def test_nothing_is_measured_unless_a_meter_listens():
    meter = StageMeter(lambda: None)
    staged("stage")(lambda: count_work(5, 1))()
    assert meter.take().keys() == {"other"}


def test_a_stage_that_fails_is_left():
    meter = StageMeter(lambda: None)
    with listening(meter), pytest.raises(ValueError, match="x"), stage("failing"):
        raise ValueError("x")
    count = len(meter.take())
    assert count == 2  # "failing" and "other"
    assert meter.take().keys() == {"other"}


def test_the_device_is_waited_for_at_both_ends_of_a_stage():
    waits = []
    with listening(StageMeter(lambda: waits.append(1))), stage("any"):
        assert len(waits) == 1
    assert len(waits) == 2


def test_shares_of_limits_by_hand():
    step = {
        "decode": StageWork(2.0, tokens=4, head_tokens=4, passes=2),
        "forward": StageWork(1.0, tokens=6, head_tokens=3, passes=1),
        "backward": StageWork(1.0),
        "optimizer": StageWork(0.5),
        "reward": StageWork(0.5),
    }
    rows = {row["stage"]: row for row in stage_rows([step, step], SIZES, LIMITS)}
    assert [row["stage"] for row in stage_rows([step], SIZES, LIMITS)] == [
        "decode", "reward", "forward", "backward", "optimizer",
    ]  # fmt: skip
    # 2 x (100 x 4 + 10 x 4) operations in 2 s of 10,000 a second; two reads of 110 weights of 2 bytes
    assert rows["decode"] == {
        "stage": "decode",
        "seconds": 2.0,
        "share": 0.4,
        "tokens_per_second": 2.0,
        "compute_share": pytest.approx(880 / 2 / 10_000),
        "bandwidth_share": pytest.approx(440 / 2 / 1000),
    }
    # those of the forward pass, 2 x (100 x 6 + 10 x 3), the logits again, 2 x 10 x 3, and 2 x 20 x 6 of what trains
    assert rows["backward"]["compute_share"] == pytest.approx((1260 + 60 + 240) / 10_000)
    assert rows["optimizer"]["bandwidth_share"] == pytest.approx(28 * 20 / 0.5 / 1000)
    assert rows["reward"].keys() == {"stage", "seconds", "share"}


def test_a_table_has_a_line_per_stage():
    shown = lines(stage_rows([{"decode": StageWork(1.0, 1000, 10, 1), "reward": StageWork(3.0)}], SIZES, LIMITS))
    assert [line.split()[0] for line in shown] == ["stage", "decode", "reward"]
    assert shown[1].split()[1:4] == ["1.000", "25.0%", "1,000"]


def test_towers_do_not_count_as_weights_of_a_pass():
    model = tiny_model(adapter=False)
    layers = sum(value.numel() for name, value in model.named_parameters() if name.startswith("model.layers."))
    assert Sizes.of(model, torch.bfloat16) == Sizes(layers, 64 * 32, 0, 2)


def profile_of(folder) -> dict:
    return json.loads((folder / "profile.json").read_text())


@pytest.mark.parametrize("tokens_per_pass", [0, 7])
def test_a_profiled_run_leaves_a_table_and_a_trace(world, tmp_path, tokens_per_pass):
    make_trainer(
        world, tmp_path, profile_steps=3, max_steps=5, save_steps=2, beta=0.1, tokens_per_pass=tokens_per_pass
    ).train()
    profile = profile_of(tmp_path)
    # step 1 warms up; of steps 2 to 4 the last is traced and does not count
    assert (profile["first_step"], profile["steps"]) == (2, 2)
    assert {row["stage"] for row in profile["stages"]} == {
        "waiting for images", "prefill", "decode", "reward", "reference", "forward", "backward", "optimizer", "other",
    }  # fmt: skip
    assert sum(row["share"] for row in profile["stages"]) == pytest.approx(1)
    rows = {row["stage"]: row for row in profile["stages"]}
    for name in ("prefill", "decode", "reference", "forward", "backward"):
        assert rows[name]["tokens_per_second"] > 0
        assert rows[name]["compute_share"] > 0
    with gzip.open(tmp_path / profile["trace"]) as trace:
        assert json.load(trace)["traceEvents"]


def test_a_run_no_longer_than_its_profile_is_profiled_from_the_first_step(world, tmp_path):
    make_trainer(world, tmp_path, profile_steps=3, max_steps=3).train()
    assert (profile_of(tmp_path)["first_step"], profile_of(tmp_path)["steps"]) == (1, 2)


def test_fine_tuning_has_no_rollout_in_its_profile(world, tmp_path):
    sft_runs.make_trainer(world, tmp_path, profile_steps=1, max_steps=2).train()
    stages = {row["stage"] for row in profile_of(tmp_path)["stages"]}
    assert {"forward", "backward", "optimizer"} <= stages
    assert not {"decode", "reference", "reward"} & stages


def test_a_profile_changes_no_result(world, tmp_path):
    weights = []
    for steps in (0, 2):
        make_trainer(world, tmp_path / str(steps), profile_steps=steps, max_steps=3).train()
        weights.append((tmp_path / str(steps) / "checkpoint-3" / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
