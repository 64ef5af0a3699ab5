"""Speed of the lexicon extractor, and its coverage of an annotated vocabulary.

    python -m bench.kg.lexicon                     # sentences per second
    python -m bench.kg.lexicon --terms terms.tsv   # and coverage

The speed is per second of processor time, on sentences that are all different, so that the cache never helps. The
second figure is for reading the same sentences again. Coverage is the share of annotated occurrences whose term, read
alone, gets the type that annotators gave it most often. Present and not present count as one type, because that depends
on the sentence. The file has one term per line: term, sentences, then one column of counts per entity type, named in
the first line. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time

from ReXKG.lexicon.extractor import LexiconExtractor

BATCH = 64

_SIDES = ("left", "right")
_DEGREES = ("small", "moderate", "large", "trace", "mild", "stable")
_PLACES = ("lower lobe", "upper lung zone", "lung base", "mid lung", "costophrenic angle", "hilum")
_FINDINGS = ("pleural effusion", "consolidation", "pneumothorax", "basilar atelectasis", "airspace opacity", "nodule")
_FRAMES = (
    "There is a {degree} {side} {finding}, which has increased in the interval since study {number}",
    "No {finding} or {other} is seen in the {side} {place} on film {number}",
    "{degree} {finding} in the {side} {place}, likely representing {other} versus atelectasis ({number})",
    "The endotracheal tube terminates {number} cm above the carina, and the heart size is within normal limits",
    "Interval removal of the {side} chest tube without evidence of pneumothorax or {finding} on view {number}",
    "The cardiomediastinal silhouette is moderately enlarged, unchanged compared with {number}, with {degree} {other}",
)  # fmt: skip


def make_sentences(count: int, seed: int = 0) -> list[str]:
    """``count`` different sentences of report English, 10 to 18 words each."""
    rng = random.Random(seed)
    return [
        rng.choice(_FRAMES).format(
            number=number,
            side=rng.choice(_SIDES),
            degree=rng.choice(_DEGREES),
            place=rng.choice(_PLACES),
            finding=rng.choice(_FINDINGS),
            other=rng.choice(_FINDINGS),
        )
        for number in range(count)
    ]


def sentences_per_second(count: int) -> tuple[float, float]:
    """Sentences per second of a new extractor at the first and at the second reading of ``count`` different sentences,
    in batches of `BATCH`."""
    extractor, sentences = LexiconExtractor(), make_sentences(count)
    rates = []
    for _ in range(2):
        start = time.process_time()
        for first in range(0, count, BATCH):
            extractor(sentences[first : first + BATCH])
        rates.append(count / (time.process_time() - start))
    return rates[0], rates[1]


def coverage(path: str) -> tuple[float, list[tuple[int, str]]]:
    """The covered share of annotated occurrences, and the terms that are not covered as (occurrences, term)."""
    extractor = LexiconExtractor()
    covered = total = 0
    missed = []
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            term = row.pop("term")
            row.pop("sentences")
            counts: dict[str, int] = {}
            for kind, number in row.items():
                family = kind.split("_")[0]
                counts[family] = counts.get(family, 0) + int(number)
            occurrences = sum(counts.values())
            total += occurrences
            predicted = extractor([term])[0]["entities"].get(term, "").split("_")[0]
            if counts.get(predicted) == max(counts.values()):
                covered += occurrences
            else:
                missed.append((occurrences, term))
    return covered / total, sorted(missed, reverse=True)


def main(argv: list[str] | None = None) -> int:
    """Print the figures; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--sentences", type=int, default=40_000, help="number of different sentences to read")
    parser.add_argument("--terms", metavar="FILE", help="annotated counts per term (tab-separated)")
    args = parser.parse_args(argv)
    first, again = sentences_per_second(args.sentences)
    figures = {"lexicon_sentences_per_second": round(first), "cached_sentences_per_second": round(again)}
    print(f"{first:,.0f} sentences per second ({again:,.0f} when read again)")
    if args.terms:
        share, missed = coverage(args.terms)
        figures["coverage"] = round(share, 4)
        print(f"{share:.2%} of annotated occurrences; missed most: {', '.join(f'{t} {n}' for n, t in missed[:12])}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
