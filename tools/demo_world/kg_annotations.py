"""Sentences of the demo world with entities and relations, in the form that the neural extractor is trained on.

The labels are those of the lexicon extractor.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from ReXKG.lexicon.attachment import attach
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.lexicon.polarity.rules import resolve_polarity
from ReXKG.neural.annotations import AnnotatedSentence, document
from ReXKG.neural.mentions import Mention, Relation
from ReXKG.text import split_sentences, tokenize
from swift.utils.files import write_json_lines
from tools.demo_world.dataset import WorldConfig, build_world
from utils.answers import think_text

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
_SENTENCES_PER_DOCUMENT = 3


def annotate(words: Sequence[str], extractor: LexiconExtractor) -> AnnotatedSentence:
    """The sentence with the entities and relations that the lexicon extractor finds, as positions of words."""
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
    # Relations name texts. Here the text of an item is its number, so that they name positions.
    triples = attach([item._replace(text=str(number)) for number, item in enumerate(items)])
    relations = (Relation(mentions[int(source)], mentions[int(target)], label) for source, target, label in triples)
    return AnnotatedSentence(tuple(words), tuple(mentions.values()), tuple(relations))


def demo_sentences(config: WorldConfig) -> list[str]:
    """The distinct sentences of the demo world's reasoning, sorted, with one blank between words."""
    records = (record for file in build_world(config).files.values() for record in file)
    texts = (r.get("explanation") or r.get("solution") or r["messages"][-1]["content"] for r in records)
    return sorted({" ".join(tokenize(sentence)) for text in texts for sentence in split_sentences(think_text(text), 2)})


def write_annotations(output: Path, config: WorldConfig) -> dict[str, int]:
    """Write train.jsonl, dev.jsonl and test.jsonl. Returns the number of sentences in each."""
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
