"""Progress of a training run, as a bar or as lines of the log."""

from __future__ import annotations

from tqdm import tqdm
from transformers import TrainerCallback

from swift.utils.logger import get_logger

logger = get_logger()

SHOWN_METRICS = {
    "loss": "loss",
    "reward": "reward",
    "kl": "kl",
    "completion_length": "length",
    "clip_ratio": "clip",
    "dropped_groups": "dropped",
}
SECONDS = ("seconds/rollout", "seconds/reward", "seconds/update")


class ProgressBar(TrainerCallback):
    """A tqdm line with the steps done and the last logged values."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is not None and logs and "train_runtime" not in logs:
            self.bar.set_postfix_str(summary(logs), refresh=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """End the line, so that later output, such as an error, starts on a new one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class LogLines(TrainerCallback):
    """The content of the bar as lines of the log, for ``--disable_tqdm true`` and if there is no terminal."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            logger.info("step %d/%d: %s", state.global_step, state.max_steps, summary(logs))


def summary(logs: dict[str, float]) -> str:
    """Short form of the main values in ``logs``, after the word "validation" if they are of validation data.

    Parts of the reward lose the plugin's prefix. Seconds are shown as rollout+reward+update.
    """
    if figures := {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}:
        return f"validation: {summary(figures)}"
    parts = [f"{label} {logs[name]:.3g}" for name, label in SHOWN_METRICS.items() if name in logs]
    rewards = [
        f"{name.removeprefix('rewards/').removeprefix('external_')} {value:.2f}"
        for name, value in logs.items()
        if name.startswith("rewards/") and not name.endswith("/std")
    ]
    place = 2 if "reward" in logs else len(parts)
    parts[place:place] = rewards
    if all(name in logs for name in SECONDS):
        parts.append("s " + "+".join(f"{logs[name]:.1f}" for name in SECONDS))
    return ", ".join(parts)
