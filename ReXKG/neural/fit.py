"""Fine-tuning of either model: epochs, early stopping on the development set, saving of the best weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from ReXKG.neural.annotations import AnnotatedSentence
from ReXKG.neural.batching import Encoded, batches

Example = TypeVar("Example", bound=Encoded)
_CLIP, _WEIGHT_DECAY = 1.0, 0.01

logger = logging.getLogger("chex.knowledge_graph")


class FitTask(Protocol[Example]):
    """A model to train, with its examples, its loss on a batch of them and its score on a set of sentences."""

    model: nn.Module

    def examples(self, sentences: Sequence[AnnotatedSentence]) -> list[Example]:
        """The inputs of the model with their labels."""

    def loss(self, batch: Sequence[Example]) -> torch.Tensor:
        """The loss of a batch, a scalar."""

    def score(self, sentences: Sequence[AnnotatedSentence]) -> dict[str, Any]:
        """`ReXKG.neural.agreement.agreement` of the model's predictions."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of a training.

    Attributes:
        epochs: the most epochs.
        learning_rate: peak of the encoder.
        head_learning_rate: peak of the layers on top of it.
        batch_tokens: padded word-pieces per batch.
        warmup: share of all steps in which the learning rates rise.
        patience: epochs without a better development F1 after which training stops.
        seed: seed of the order of examples.

    Raises:
        ValueError: ``epochs``, ``batch_tokens`` or ``patience`` is below 1.
    """

    epochs: int = 20
    learning_rate: float = 2e-5
    head_learning_rate: float = 5e-4
    batch_tokens: int = 1024
    warmup: float = 0.1
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_tokens", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: give 1 or more")


def fit(
    task: FitTask,
    train: Sequence[AnnotatedSentence],
    dev: Sequence[AnnotatedSentence],
    settings: FitSettings,
    save: Callable[[], None],
) -> list[dict[str, float]]:
    """Train until the development F1 stops rising. ``save`` is called after every epoch that is at least as good as all
    before it: of equal epochs the one that trained longer wins.

    The encoder and the head have learning rates of their own. Both rise linearly over the warm-up and fall linearly to
    zero over all epochs.

    Returns:
        One ``{"epoch", "loss", "dev_f1"}`` per epoch.

    Raises:
        ValueError: the training sentences give no examples.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    examples = task.examples(train)
    if not examples:
        raise ValueError(
            "--train: no pair of entities in any sentence; give sentences with at least two annotated entities"
        )
    steps_per_epoch = sum(1 for _ in batches(examples, settings.batch_tokens))
    optimizer, schedule = _optimizer(task.model, settings, steps_per_epoch * settings.epochs)
    history: list[dict[str, float]] = []
    best, epochs_since_best = -1.0, 0
    for epoch in range(1, settings.epochs + 1):
        task.model.train()
        order = torch.randperm(len(examples), generator=generator).tolist()
        drawn = list(batches((examples[i] for i in order), settings.batch_tokens))
        losses = []
        for i in tqdm(torch.randperm(len(drawn), generator=generator).tolist(), desc=f"epoch {epoch}", leave=False):
            loss = task.loss(drawn[i])
            loss.backward()
            nn.utils.clip_grad_norm_(task.model.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        task.model.eval()
        f1 = task.score(dev)["f1"]
        history.append({"epoch": epoch, "loss": sum(losses) / len(losses), "dev_f1": f1})
        logger.info("epoch %d: loss %.4f, dev F1 %.4f", epoch, history[-1]["loss"], f1)
        epochs_since_best = 0 if f1 > best else epochs_since_best + 1
        if f1 >= best:
            best = f1
            save()
        if epochs_since_best >= settings.patience:
            break
    return history


def _optimizer(
    model: nn.Module, settings: FitSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    encoder = list(model.bert.parameters())
    known = set(map(id, encoder))
    head = [parameter for parameter in model.parameters() if id(parameter) not in known]
    optimizer = torch.optim.AdamW(
        [
            {"params": encoder, "lr": settings.learning_rate},
            {"params": head, "lr": settings.head_learning_rate},
        ],
        weight_decay=_WEIGHT_DECAY,
    )
    warmup = max(1, round(settings.warmup * steps))

    def share(step: int) -> float:
        return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)
