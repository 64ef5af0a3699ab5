"""Flags that choose the estimator of GRPO: its loss, its advantages and its reference. Names are those of TRL 1 and
ms-swift 4. docs/algorithms.md lists the papers and formulas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from swift.llm.ms_swift_arguments import flag, require

# As in ms-swift 4: the scale of rewards that an estimator takes by default.
DEFAULT_SCALES = {"grpo": "group", "rloo": "none", "reinforce_plus_plus": "batch"}
SWITCHED_SCALES = {"true": "group", "false": "none"}  # ms-swift 3.3 had a switch
CLIPPED_LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo")


@dataclass(kw_only=True)
class EstimatorFlags:
    """The loss of GRPO, its advantages, and the use of rollouts and of the reference.

    A base of the arguments of GRPO, whose beta, epsilon and gradient_accumulation_steps it reads.
    """

    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo"] = flag(
        "how token losses become one number: dapo: mean over all tokens of the step", "dapo"
    )
    epsilon_high: float | None = flag(
        "upper clip range of the probability ratio; default: as epsilon; cispo: the largest weight of a token"
    )
    delta: float | None = flag("largest ratio that counts for bad tokens (two-sided clipping), above 1 + epsilon_high")
    importance_sampling_level: Literal["token", "sequence"] = flag(
        "one probability ratio per token, or per completion (GSPO)", "token"
    )
    scale_rewards: Literal["true", "false", "group", "batch", "none", "gdpo"] | None = field(
        default=None,
        metadata={
            "help": "divide advantages by the deviation of rewards in the group (or true), in the batch, or not at all "
            "(none or false); gdpo: each reward in its group, then the sum in the batch; default: group, with rloo "
            "none, with reinforce_plus_plus batch",
            "nargs": "?",
            "const": "group",
        },
    )
    advantage_estimator: Literal["grpo", "rloo", "reinforce_plus_plus"] = flag(
        "a completion is compared with its group's mean (grpo, reinforce_plus_plus) or with the other ones (rloo)",
        "grpo",
    )
    kl_in_reward: bool | None = flag(
        "take beta times the KL off the reward, and not into the loss; default: false, with rloo and "
        "reinforce_plus_plus true"
    )
    top_entropy_quantile: float = flag("share of the most uncertain tokens that the policy learns from", 1.0)
    vision_weights: bool = flag("weigh completions by what their tokens owe to the image (VPPO)", False)
    vision_top_share: float = flag(
        "share of the tokens of each completion, those that owe most to the image, that the policy learns from", 1.0
    )
    log_vision_dependency: bool = flag("measure and log what tokens owe to the image, also without weights", False)
    vision_mask: Literal["gray", "noise"] = flag("what stands in place of the image for vision dependency", "gray")
    sync_ref_model: bool = flag("move the reference towards the policy as training goes", False)
    ref_model_sync_steps: int = flag("sync_ref_model: optimizer steps between two moves", 512)
    ref_model_mixup_alpha: float = flag("sync_ref_model: share of the policy in the new reference", 0.6)
    steps_per_generation: int | None = flag(
        "micro-batches that are sampled at once; a multiple of gradient_accumulation_steps makes several optimizer "
        "steps per rollout, each on other completions; default: gradient_accumulation_steps"
    )
    num_generations_eval: int | None = flag(
        "completions per validation prompt, sampled as in training; default: a single greedy one"
    )
    flat_groups: Literal["keep", "drop", "dpo"] = flag(
        "groups whose rewards have at most min_group_std: keep, drop from the loss, or dpo: if all are worse than the "
        "reference answer, learn to prefer it to the worst one",
        "keep",
    )
    dpo_beta: float = flag("flat_groups dpo: how sharply the reference answer is preferred", 0.1)
    reward_timeout: float | None = flag("seconds that a reward may take for one call; default: any time")

    @property
    def measures_vision(self) -> bool:
        """True if a flag asks for what tokens owe to the image."""
        return self.vision_weights or self.vision_top_share < 1 or self.log_vision_dependency

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that share a rollout, each with completions of its own."""
        return 1 if self.steps_per_generation is None else self.steps_per_generation // self.gradient_accumulation_steps

    def check_rollout(self) -> None:
        """Check ``steps_per_generation``. Raises UserError."""
        steps, accumulated = self.steps_per_generation, self.gradient_accumulation_steps
        require(
            steps is None or (steps >= 1 and accumulated >= 1 and steps % accumulated == 0),
            f"--steps_per_generation {steps} must be a multiple of --gradient_accumulation_steps {accumulated}: both "
            "count micro-batches, and an optimizer step cannot use a part of a rollout's",
        )

    def check_estimator(self) -> None:
        """Check the values of these flags, and set those that follow from others. Raises UserError for combinations
        without a meaning."""
        kind = self.advantage_estimator
        self.scale_rewards = SWITCHED_SCALES.get(self.scale_rewards, self.scale_rewards) or DEFAULT_SCALES[kind]
        if self.kl_in_reward is None:
            self.kl_in_reward = kind != "grpo" and self.beta > 0
        self._check_values()
        self._check_loss()
        require(
            self.scale_rewards != "gdpo" or kind == "grpo",
            f"--scale_rewards gdpo does not go with --advantage_estimator {kind}: gdpo has a scale and a baseline of "
            "its own; leave one out",
        )
        require(
            not (self.kl_in_reward and self.scale_rewards == "gdpo"),
            "--kl_in_reward does not go with --scale_rewards gdpo, which normalizes each reward by itself, and the KL "
            "is none of them; leave one out",
        )
        require(
            not (self.kl_in_reward and self.flat_groups == "dpo"),
            "--flat_groups dpo does not go with --kl_in_reward: the KL of the solution would be taken off the reward "
            "of the answer that it stands for; pass --kl_in_reward false, or leave --flat_groups out",
        )
        require(
            self.vision_mask == "gray" or self.measures_vision,
            f"--vision_mask {self.vision_mask} does nothing by itself; pass --vision_weights true, --vision_top_share "
            "or --log_vision_dependency true too, or leave it out",
        )
        for name, asked in (
            ("--kl_in_reward", self.kl_in_reward),
            ("--sync_ref_model", self.sync_ref_model),
            ("--flat_groups dpo", self.flat_groups == "dpo"),
        ):
            require(
                not asked or self.beta > 0,
                f"{name} needs a reference policy, and with --beta 0 there is none; pass a --beta above 0, or leave it "
                "out",
            )

    def _check_values(self) -> None:
        for name in ("epsilon_high", "delta", "dpo_beta", "reward_timeout"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name} {value} must be above 0")
        for name in ("ref_model_sync_steps", "num_generations_eval"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value} must be 1 or more")
        for name in ("top_entropy_quantile", "vision_top_share", "ref_model_mixup_alpha"):
            value = getattr(self, name)
            require(0 < value <= 1, f"--{name} {value} must be above 0 and at most 1")

    def _check_loss(self) -> None:
        kind, high = self.loss_type, self.epsilon_high
        upper = 1 + (self.epsilon if high is None else high)
        require(
            self.delta is None or kind in CLIPPED_LOSSES,
            f"--delta bounds the clipped loss, which --loss_type {kind} does not have; leave one out",
        )
        require(
            self.delta is None or self.delta > upper,
            f"--delta {self.delta} must be above 1 + epsilon_high = {upper:g}: the ratio is clipped there already",
        )
        require(
            kind != "cispo" or (high is not None and high >= 1),
            f"--loss_type cispo weighs each token with its ratio up to --epsilon_high {high}, which must be 1 or more, "
            "or else every token has the same weight; pass --epsilon_high 5",
        )
        require(
            kind != "sapo" or high is None,
            "--epsilon_high does not go with --loss_type sapo, which has a soft gate and no clip range; leave one out",
        )
