"""Training decodes the images of the next step while a step computes, which changes none of its results."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path

import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from torch.utils.data import BatchSampler
from transformers import TrainerCallback

from swift.llm.images.cache import ImageCache
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.trainers.data import PromptOrder
from tests.support import grpo_runs, sft_runs

STEPS = 5


class Tiler(DynamicHDImageProcessor):
    """Records the thread in which each image is made."""

    threads: list[str]

    def __call__(self, image):
        self.threads.append(threading.current_thread().name)
        return super().__call__(image)


class Announcements(ImageCache):
    """Also records the images that are read, each with a flag that it had been announced."""

    def __init__(self, processor):
        super().__init__(processor)
        self.next_step: set[str] = set()
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, source):
        self.asked.append((source.key, source.key in self.next_step))
        return super().__call__(source)

    def prefetch(self, sources, *, first=False):
        sources = list(sources)
        if not first:
            self.next_step = {source.key for source in sources}
        super().prefetch(sources, first=first)


class Forget(TrainerCallback):
    """Empties the cache and its records when training begins, since the probe has read two prompts before."""

    def __init__(self, cache: Announcements):
        self.cache = cache

    def on_train_begin(self, args, state, control, **kwargs):
        self.cache._begin()
        self.cache.asked.clear()
        self.cache.processor.threads.clear()


def watch(trainer, prefetching: bool = True) -> Announcements:
    """Exchange the trainer's cache for one that records, and return it."""
    template = trainer.template
    old = template.image_processor
    template.image_processor = Tiler(old.crop_size, old.patch_size, old.dynamic_hd)
    template.image_processor.threads = []
    template._cache = Announcements(template.image_processor)
    trainer.add_callback(Forget(template._cache))
    if not prefetching:
        template._cache.prefetch = lambda sources, first=False: None
    return template._cache


def grpo(world: Path, output: Path, **flags):
    settings = {"max_steps": STEPS, "learning_rate": 1e-2, "logging_steps": 1}
    return grpo_runs.make_trainer(world, output, **settings | flags)


def files(output: Path) -> list[bytes]:
    """The results of a run: weights, completions, losses."""
    history = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    weights = output / f"checkpoint-{STEPS}" / "adapter_model.safetensors"
    return [weights.read_bytes(), (output / "completions.jsonl").read_bytes(), json.dumps(losses).encode()]


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory) -> Path:
    """The folder of a run that decodes every image when it needs it."""
    output = tmp_path_factory.mktemp("plain")
    trainer = grpo(world, output, gradient_accumulation_steps=2)
    cache = watch(trainer, prefetching=False)
    trainer.train()
    assert set(cache.processor.threads) == {"MainThread"}
    return output


def test_the_next_step_is_announced_decoded_elsewhere_and_changes_nothing(world, plain, tmp_path):
    trainer = grpo(world, tmp_path, gradient_accumulation_steps=2)
    cache = watch(trainer)
    trainer.train()
    # The first step takes two batches of two prompts, and the loader holds a third. After them every image that is read
    # had been announced. The epoch has three steps, so this holds across the ends of epochs, too.
    assert [announced for _, announced in cache.asked[6:]] == [True] * (STEPS * 4 - 4)
    assert all(name.startswith("images") for name in cache.processor.threads[6:])
    # Twelve questions, twelve images: each is made once in the whole run.
    assert len(cache.processor.threads) == 12
    assert files(tmp_path) == files(plain)


def test_a_resumed_run_announces_from_where_it_goes_on(world, tmp_path):
    grpo(world, tmp_path, gradient_accumulation_steps=2, max_steps=1).train()
    resumed = grpo(world, tmp_path, gradient_accumulation_steps=2, max_steps=3, resume_from_checkpoint=True)
    cache = watch(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    # The first step of the epoch of twelve questions is done, and its four questions are not read again.
    assert [announced for _, announced in cache.asked] == [False] * 6 + [True] * 2
    assert len({key for key, _ in cache.asked}) == 8


def test_fine_tuning_announces_its_groups(world, tmp_path):
    trainer = sft_runs.make_trainer(world, tmp_path, max_steps=6, per_device_train_batch_size=3)
    cache = watch(trainer)
    trainer.train()
    assert [announced for _, announced in cache.asked[6:]] == [True] * (len(cache.asked) - 6)
    assert len(cache.asked) >= 6 * 3
    assert all(name.startswith("images") for name in cache.processor.threads)


def test_nothing_is_announced_where_the_data_loader_has_workers_or_the_run_ends(world, tmp_path):
    trainer = grpo(world, tmp_path, max_steps=2, dataloader_num_workers=1)
    cache = watch(trainer)
    trainer.train()
    assert cache.next_step == set()
    assert cache.processor.threads == []  # all is made in the worker
    trainer = grpo(world, tmp_path / "one", max_steps=1)
    cache = watch(trainer)
    trainer.train()
    assert cache.next_step == set()


def test_validation_announces_the_next_batch(world, tmp_path):
    validation = {"val_dataset": world / "data" / "train.json", "per_device_eval_batch_size": 5}
    trainer = sft_runs.make_trainer(world, tmp_path, max_steps=1, **validation)
    cache = watch(trainer)
    trainer.evaluate()
    assert [announced for _, announced in cache.asked] == [False] * 5 + [True] * 7


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("length", "size", "repeats"), [(24, 2, 1), (24, 2, 2), (25, 2, 1), (7, 3, 1), (25, 1, 1)])
def test_what_is_ahead_is_what_the_loader_draws_next(processes, length, size, repeats):
    """The order agrees with accelerate's sharding, after a resume and into the next epoch.

    If an epoch does not divide into batches, its last one is filled from the epoch's beginning and may differ.
    """
    even = length % (size * processes) == 0
    for process in range(processes):
        order = PromptOrder(length, seed=3, block=size * processes, repeats=repeats)
        shard = BatchSamplerShard(BatchSampler(order, size, False), processes, process)
        order.set_epoch(1)
        second = list(shard)
        order.set_epoch(0)
        first = list(shard)
        for skipped in range(4):
            for drawn, batch in enumerate(SkipBatchSampler(shard, skipped), start=skipped + 1):
                assert batch == first[drawn - 1]
                if even or drawn + 2 <= length // (size * processes):
                    expected = (first[drawn:] + second)[:2]
                    assert order.ahead(2, size, process, processes) == list(itertools.chain.from_iterable(expected))
