"""Flags about images, which a sweep passes from training to evaluation."""

from __future__ import annotations

from swift.evaluation.arguments import EvaluationArguments
from swift.utils.flags import FlagParser
from tools.sweeps.grid import plan_sweep
from tools.sweeps.settings import EvaluationSettings, RunSettings, SweepSettings


def evaluation_of(*flags: str) -> EvaluationArguments:
    """The evaluation of the first run of a sweep with these flags for training."""
    sweep = SweepSettings(sizes="4", types="uniform", evaluate="true")
    (run, *_) = plan_sweep(sweep, RunSettings(), EvaluationSettings(), "python", flags)
    (arguments,) = FlagParser((EvaluationArguments,), prog="evaluate.py", description="").parse(run.evaluate[2:])
    return arguments


def test_the_image_root_reaches_the_evaluation():
    assert evaluation_of("--image_root", "my images", "--top_k", "50").img_root == "my images"
    assert evaluation_of("--top_k", "50").img_root is None


def test_other_flags_about_images_reach_it_too():
    arguments = evaluation_of("--image_fields", "front", "side", "--allow_links", "true", "--unseen=count")
    assert (arguments.image_fields, arguments.allow_links, arguments.unseen) == (["front", "side"], True, "count")
