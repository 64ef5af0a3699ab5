"""Growth of the lexicon extractor's time with the length of hostile text.

    python -m bench.kg.hostile

Each kind of text is read at one length and at four times that length, by a new extractor each time. The times are the
best of three, in seconds of processor time. Linear reading shows ratios of about 4, quadratic reading of about 16. The
last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from ReXKG.lexicon.extractor import LexiconExtractor

ROUNDS = 3

# Kind to the unit that is repeated to the length asked for; each of two units fills one half.
HOSTILE: dict[str, str | tuple[str, str]] = {
    "nothing": "",
    "blanks": " \t\n\r\x0b ",
    "one long word": "a",
    "one long number": "1",
    "words without an end": "small left pleural effusion ",
    "one phrase's beginning": "pulmonary vascular ",
    "negations": "no without neither nor free of ",
    "denials": "effusion not seen is resolved ",
    "negations and verbs": "no effusion , edema is ",
    "one clause": "no effusion or ",
    "looking back": "effusion has resolved ",
    "looking back from behind": ("effusion ", "resolved "),
    "a list after negations": ("no ", "effusion, "),
    "states": "enlarged ",
    "removals": "tube removal removed ",
    "no change": "no change in without improvement ",
    "degrees": "mildly ",
    "modifiers": "small loculated , and ",
    "modifiers before a noun": ("small ", "effusion "),
    "places": "effusion in the lung at the base of ",
    "suggestions after findings": ("opacity ", "likely "),
    "suggestions": "opacity likely representing atelectasis or ",
    "measures": "1 x 2 x 3 x ",
    "a measure with its unit": "3 x 4 cm ",
    "commas": ", ",
    "commas without blanks": "effusion,",
    "brackets": "((((",
    "dots": ".",
    "dotted numbers": "1.2.3.",
    "hyphens": "-",
    "hyphenated": "left-right-",
    "hyphenated words": "left-q left-",
    "quotes": "\"'`“",
    "semicolons": "effusion; ",
    "emoji": "🫁🩻👩‍⚕️ effusion ",
    "control characters": "\x00\x1b[0m\x7f effusion \x85",
    "half surrogates": "\ud800 effusion\udfff ",
    "markup": "<think><b>effusion</b></think><",
    "open tags": "<a",
    "closing tags": "</answer>",
    "think tags": "<think>",
    "answer tags": "<answer>",
    "spans": "<think>no</think> <answer>",
    "entities of HTML": "&lt;effusion&gt;&amp;",
    "Chinese": "左侧胸腔积液，未见气胸。",
    "Arabic": "لا يوجد انصباب جنبي ",
    "accents": "e\u0301\u0300\u0302",
    "letters that grow in lower case": "İ",
    "headings": "FINDINGS: IMPRESSION:\n",
    "empty lines": "\n \t\n",
    "questions": "is there an effusion? no, ",
    "questions in a row": "is there an effusion? none resolved ",
    "suppositions": "if effusion would , is ",
    "headings and answers": "effusion: no, ",
    "brackets with answers": "edema (no), ",
    "dots before an answer": "effusion ... no",
    "counts after questions": "effusion? we do, two, ",
    "options behind semicolons": "options: edema; ",
    "lists in brackets": "no (a) effusion ",
    "parts that are gone": "most of the effusion has resolved, persists ",
    "bullets": "- no effusion\n",
    "lines in lower case": "no effusion\n",
    "lists that open": "no effusion, small left ",
    "devices after disorders": "no effusion, tube, ",
    "comparisons": "fits better than effusion ",
    "double negations": "not resolved not free of ",
    "pronouns": "effusion, but it resolved; ",
    "contractions": "isn't don't ",
    "stars": "* ** *",
    "code": '{"findings": [[["effusion",',
}


def hostile(name: str, length: int) -> str:
    """A text of the kind ``name`` with ``length`` characters."""
    units = HOSTILE[name]
    if isinstance(units, str):
        return (units * (length // max(1, len(units)) + 1))[:length]
    return "".join(unit * (length // 2 // len(unit)) for unit in units)


def seconds(text: str) -> float:
    """The shortest time in which a new extractor reads the text."""
    times = []
    for _ in range(ROUNDS):
        extractor = LexiconExtractor()
        start = time.process_time()
        extractor([text])
        times.append(time.process_time() - start)
    return min(times)


def main(argv: list[str] | None = None) -> int:
    """Print one line per kind and the summary; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--length", type=int, default=100_000, help="characters of the shorter text")
    length = parser.parse_args(argv).length
    ratios: dict[str, float] = {}
    slowest = 0.0
    for name in filter(HOSTILE.get, HOSTILE):
        short, long = (seconds(hostile(name, size)) for size in (length, 4 * length))
        ratios[name], slowest = long / short, max(slowest, long / (4 * length))
        print(f"{name:<32} {short:8.4f} s {long:8.4f} s {ratios[name]:6.2f}x")
    worst = max(ratios, key=ratios.get)
    figures = {
        "kinds": len(ratios),
        "median_ratio": round(sorted(ratios.values())[len(ratios) // 2], 2),
        "worst_ratio": round(ratios[worst], 2),
        "worst_kind": worst,
        "slowest_us_per_character": round(1e6 * slowest, 3),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
