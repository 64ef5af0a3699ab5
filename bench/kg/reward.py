"""Cost of the knowledge-graph reward in a GRPO step of 64 completions of 8 prompts, read by the neural extractor.

    python -m bench.kg.reward                          # about two minutes on one core
    python -m bench.kg.reward --run output/demo/grpo   # with the share of a step from your run

The plain way is the published one. It reads the models from disk at every reward call, reads one text at a time, pads
every pair to 256 word-pieces and reads the reference of every completion again. Ours is `external_kg_jac` with the
neural extractor. Both use the same checkpoints, whose random weights make 35% of the words entities and relate 20% of
the pairs. Texts are the reasoning of the demo world. The completions of a prompt are drawn from the reasoning of
questions of its kind. A later step has the same prompts, half of the completions repeated and half drawn anew. The last
line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import BertConfig, BertModel

from bench.kg.lexicon import make_sentences, sentences_per_second
from bench.kg.models import naive_extractor, naive_graphs, write_models
from bench.reward_share import seconds_per_step, short_run_seconds
from plugin import KnowledgeGraphORM
from ReXKG.graph import Graph
from ReXKG.neural.bert import encode_at
from ReXKG.neural.extractor import NeuralExtractor
from ReXKG.neural.folders import ModelFolders
from ReXKG.neural.relation.model import LONGEST_INPUT
from ReXKG.sentence_cache import CACHED_SENTENCES
from ReXKG.text import split_sentences, tokenize
from swift.utils.errors import reports_user_errors
from tools.demo_world.dataset import WorldConfig, build_world
from utils.answers import think_text

PROMPTS, GROUP, STEPS = 8, 8, 4
FIRST_STEPS = 5  # of ours, each in a new extractor; the median counts, because each takes a tenth of a second only
MEMORY_ENCODER, MEMORY_BATCH = (32, 1), 1000
BASE_TOKENS = 1024  # per timing of BERT-base


class Step(NamedTuple):
    """The completions of a step and the reference of each."""

    completions: list[str]
    solutions: list[str]

    @property
    def texts(self) -> tuple[list[str], list[str]]:
        """The texts of the two calls of the published reward."""
        return [think_text(text) for text in self.completions], [think_text(text) for text in self.solutions]


class Side(NamedTuple):
    """One way in one step: its seconds, its padded word-pieces by model, and its graphs."""

    seconds: float
    tokens: dict[str, int]
    graphs: list[Graph]


def make_steps(count: int, seed: int = 0) -> list[Step]:
    """Steps of `PROMPTS` times `GROUP` completions from the demo world."""
    draw = random.Random(seed)
    pool = build_world(WorldConfig()).files["valid.json"]
    kinds: dict[str, list[str]] = {}
    for record in pool:
        kinds.setdefault(record["question_type"], []).append(record["solution"])
    asked = draw.sample(pool, PROMPTS)
    solutions = [record["solution"] for record in asked for _ in range(GROUP)]
    rivals = [kinds[record["question_type"]] for record in asked for _ in range(GROUP)]
    steps = [Step([draw.choice(texts) for texts in rivals], solutions)]
    while len(steps) < count:
        last = steps[-1].completions
        fresh = [draw.choice(texts) if draw.random() < 0.5 else old for texts, old in zip(rivals, last, strict=True)]
        steps.append(Step(fresh, solutions))
    return steps


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """The words of every sentence that is read, repeats included."""
    return [tokenize(sentence) for text in texts for sentence in split_sentences(text, minimum_words=2)]


def count_tokens(extractor: NeuralExtractor) -> dict[str, int]:
    """Padded word-pieces that each model gets from now on. The dictionary is filled while the extractor works."""
    counts = {"entity": 0, "relation": 0}
    for name, reader in (("entity", extractor.entities), ("relation", extractor.relations)):

        def add(model: torch.nn.Module, inputs: tuple, name: str = name) -> None:
            counts[name] += inputs[0].ids.numel()

        reader.model.register_forward_pre_hook(add)
    return counts


def run_naive(folders: ModelFolders, step: Step) -> Side:
    """The published way: one call for the completions and one for their references, models loaded in each."""
    started = time.perf_counter()
    tokens, graphs = {"entity": 0, "relation": 0}, []
    for texts in step.texts:
        extractor = naive_extractor(folders)
        counts = count_tokens(extractor)
        graphs += naive_graphs(extractor, texts)
        tokens = {name: tokens[name] + counts[name] for name in tokens}
    return Side(time.perf_counter() - started, tokens, graphs)


def run_ours(folders: ModelFolders, steps: Sequence[Step]) -> list[Side]:
    """The reward of this repository over several steps. The first includes reading the models."""
    sides: list[Side] = []
    for step in steps:
        started = time.perf_counter()
        if not sides:
            extractor = NeuralExtractor(folders, "cpu")
            counts = count_tokens(extractor)
            reward = KnowledgeGraphORM(extract=extractor)
        before = dict(counts)
        reward(step.completions, solution=step.solutions)
        seconds = time.perf_counter() - started
        graphs = [graph for texts in step.texts for graph in extractor(texts)]
        sides.append(Side(seconds, {name: counts[name] - before[name] for name in counts}, graphs))
    return sides


def seconds_per_token(bert: BertModel, length: int, wanted: int | None = None) -> float:
    """Seconds per padded word-piece of a batch of inputs of this length, of which ``wanted`` positions are read."""
    ids = torch.randint(1000, (BASE_TOKENS // length, length))
    positions = None if wanted is None else torch.arange(wanted).expand(len(ids), wanted)
    seconds = []
    with torch.inference_mode():
        for _ in range(3):
            started = time.perf_counter()
            encode_at(bert, ids, torch.ones_like(ids), positions)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / ids.numel()


def extrapolate(naive: Side, ours: Side) -> tuple[float, float]:
    """Seconds that both ways would take with BERT-base: its measured cost per word-piece, at the length at which each
    way runs it, times the word-pieces of each. Reading weights and the work around the encoder are left out."""
    bert = BertModel(BertConfig(), add_pooling_layer=False).eval()
    padded, short, marked = (
        seconds_per_token(bert, LONGEST_INPUT),
        seconds_per_token(bert, 16),
        seconds_per_token(bert, 16, 2),
    )
    return (
        naive.tokens["relation"] * padded + naive.tokens["entity"] * short,
        ours.tokens["relation"] * marked + ours.tokens["entity"] * short,
    )


def memory_growth(count: int) -> dict[int, float]:
    """Number of different sentences read to MB of this process, at the start and at each quarter of ``count``. The
    encoder is tiny, because the cached graph of a sentence does not depend on it."""
    sentences = [" ".join(sentence.split()[:5]) + f" {number}" for number, sentence in enumerate(make_sentences(count))]
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder), [sentence.lower().split() for sentence in sentences[:200]], *MEMORY_ENCODER)
        extractor = NeuralExtractor(models, "cpu")
    sizes = {}
    for first in range(0, count, MEMORY_BATCH):
        extractor(sentences[first : first + MEMORY_BATCH])
        done = min(first + MEMORY_BATCH, count)
        if first == 0 or 4 * done % count < 4 * MEMORY_BATCH:
            sizes[done] = _resident()
    return sizes


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report_steps(steps: Sequence[Step], naive: Sequence[Side], ours: Sequence[Side]) -> float:
    """Print the table; returns the speed-up over all steps. In the first step our way reads its models too."""
    sentences = words_of([text for texts in steps[0].texts for text in texts])
    graphs = naive[0].graphs
    print(f"first step: {len(sentences)} sentences, {len(set(map(tuple, sentences)))} different;", end=" ")
    print(f"{sum(len(g['entities']) for g in graphs)} entities, {sum(len(g['relations']) for g in graphs)} relations\n")
    print(f"{'':38}{'plain':>12}{'ours':>12}{'ratio':>9}")
    for name, steps_of in (("first step, models read", slice(1)), ("a later step (mean)", slice(1, None))):
        slow, fast = (statistics.mean(side.seconds for side in sides[steps_of]) for sides in (naive, ours))
        print(f"{name:38}{slow:>10.3f} s{fast:>10.3f} s{slow / fast:>8.0f}x")
    slow, fast = (sum(side.seconds for side in sides) for sides in (naive, ours))
    speedup = slow / fast
    print(f"{f'all {len(steps)} steps':38}{slow:>10.3f} s{fast:>10.3f} s{speedup:>8.0f}x")
    slow, fast = extrapolate(naive[0], ours[0])
    print(f"{'first step, BERT-base (extrapolated)':38}{slow:>10.0f} s{fast:>10.1f} s{slow / fast:>8.0f}x\n")
    return speedup


def reward_share(run: Path | None) -> float:
    """Print the seconds per step and return the share of the rewards."""
    if run:
        seconds, source = seconds_per_step(run), str(run)
    else:
        with tempfile.TemporaryDirectory() as folder:
            seconds, source = short_run_seconds(Path(folder)), "a short run of an untrained policy, lexicon extractor"
    share = seconds["reward"] / sum(seconds.values())
    parts = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
    print(f"{parts} per step ({source}): {share:.2%} rewards")
    return share


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--hidden_size", type=int, default=128, help="width of the encoder (128)")
    parser.add_argument("--layers", type=int, default=2, help="number of layers of the encoder (2)")
    parser.add_argument(
        "--sentences", type=int, default=100_000, help="number of different sentences in the memory test (100000)"
    )
    parser.add_argument("--run", type=Path, help="folder of a GRPO run whose log gives the rewards' share of a step")
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures."""
    args = parse_arguments(argv)
    logging.getLogger("chex").setLevel(logging.WARNING)
    print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads, {platform.machine()}")
    share = reward_share(args.run)
    steps = make_steps(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        words = words_of([text for texts in steps[0].texts for text in texts])
        folders = write_models(Path(folder), words, args.hidden_size, args.layers)
        warmup = Step(steps[0].completions[:2], steps[0].solutions[:2])
        run_naive(folders, warmup), run_ours(folders, [warmup])
        ours = run_ours(folders, steps)
        again = [run_ours(folders, steps[:1])[0] for _ in range(FIRST_STEPS - 1)]
        ours[0] = sorted([ours[0], *again], key=lambda side: side.seconds)[FIRST_STEPS // 2]
        naive = [run_naive(folders, step) for step in steps]
    print(f"encoder {args.hidden_size} x {args.layers};", end=" ")
    speedup = report_steps(steps, naive, ours)
    identical = all(slow.graphs == fast.graphs for slow, fast in zip(naive, ours, strict=True))
    lexicon, _ = sentences_per_second(40_000)
    print(f"graphs identical: {identical}; lexicon extractor: {lexicon:,.0f} sentences per second")
    sizes = ", ".join(f"{size:.0f} MB at {count:,}" for count, size in memory_growth(args.sentences).items())
    print(f"memory by different sentences read, of which {CACHED_SENTENCES:,} are remembered: {sizes}")
    figures = {
        "neural_speedup": round(speedup, 1),
        "graphs_identical": identical,
        "lexicon_sentences_per_second": round(lexicon),
        "reward_share": round(share, 5),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
