"""Write sentences of the demo world with entities and relations, to try the training of the neural extractor on:

    python -m tools.make_kg_annotations --output data/demo_kg     # train.jsonl, dev.jsonl, test.jsonl

The labels are those of the lexicon extractor, not of a person. A model trained on them learns to imitate the lexicon on
the demo's English, and its F1 measures how well it does so. No sentence is in two of the three files.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from ReXKG.lexicon.attachment import attach
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.lexicon.polarity import resolve_polarity
from ReXKG.neural.annotations import AnnotatedSentence, document
from ReXKG.neural.mentions import Mention, Relation
from ReXKG.text import split_sentences, tokenize
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json_lines
from swift.utils.logger import get_logger
from tools.demo_world.dataset import WorldConfig, build_world
from utils.answers import think_text

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
_SENTENCES_PER_DOCUMENT = 3

logger = get_logger()


def annotate(words: Sequence[str], extractor: LexiconExtractor) -> AnnotatedSentence:
    """The sentence as the lexicon extractor reads it, with the places of its entities."""
    items = extractor.tag(list(words))
    mentions: dict[int, Mention] = {}
    place = 0
    for number, (item, label) in enumerate(zip(items, resolve_polarity(items), strict=True)):
        if label is None:
            continue
        parts = item.text.split()
        place = next(i for i in range(place, len(words)) if list(words[i : i + len(parts)]) == parts)
        mentions[number] = Mention(place, place + len(parts) - 1, label)
        place += len(parts)
    # Relations name texts. Here the text of each item is its number, so that they name places.
    triples = attach([item._replace(text=str(number)) for number, item in enumerate(items)])
    relations = (Relation(mentions[int(source)], mentions[int(target)], label) for source, target, label in triples)
    return AnnotatedSentence(tuple(words), tuple(mentions.values()), tuple(relations))


def demo_sentences(config: WorldConfig) -> list[str]:
    """The different sentences of the demo world's reasoning, each as words joined with blanks, sorted."""
    records = (record for file in build_world(config).files.values() for record in file)
    texts = (r.get("explanation") or r.get("solution") or r["messages"][-1]["content"] for r in records)
    return sorted({" ".join(tokenize(sentence)) for text in texts for sentence in split_sentences(think_text(text), 2)})


def write_annotations(output: Path, config: WorldConfig) -> dict[str, int]:
    """Write the three files; returns the number of sentences in each."""
    extractor = LexiconExtractor()
    sentences = demo_sentences(config)
    random.Random(config.seed).shuffle(sentences)
    counts = {}
    done = 0
    for name, share in SHARES.items():
        until = len(sentences) if name == "test" else done + round(share * len(sentences))
        annotated = [annotate(sentence.split(), extractor) for sentence in sentences[done:until]]
        write_json_lines(output / f"{name}.jsonl", list(_documents(name, annotated)))
        counts[name], done = until - done, until
    return counts


def _documents(name: str, sentences: Sequence[AnnotatedSentence]) -> Iterable[dict]:
    for first in range(0, len(sentences), _SENTENCES_PER_DOCUMENT):
        yield document(f"{name}_{first}", sentences[first : first + _SENTENCES_PER_DOCUMENT])


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_kg_annotations", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--output", type=Path, default=Path("data/demo_kg"), help="folder to write (default: data/demo_kg)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the demo world and of the splits (default: 0)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    counts = write_annotations(args.output, WorldConfig(seed=args.seed))
    logger.info("wrote %s: sentences %s", args.output, json.dumps(counts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
