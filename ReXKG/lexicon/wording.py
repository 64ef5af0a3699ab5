"""A sentence's words as the rules read them.

`read_words` is the tokenizer of the lexicon extractor. It gives the words of `ReXKG.text.tokenize`, and besides:
- A new line that begins a statement becomes ";", or "⏎" if it is in lower case and the words must tell. A line that the
  next one continues is one with it: reports are broken at some width.
- A bullet or the number of a list becomes "•", whatever it looked like.
- Contractions are written out ("isn't", "cannot": "is not", "can not"), with any apostrophe (`contractions.tsv`).
- ";", dashes between blanks and long dashes are words of their own. Asterisks of bold print are dropped.
"""

from __future__ import annotations

import re
from itertools import accumulate

from ReXKG.lexicon.answers import LINE_MARK, is_asking, join_answers, mark_replies
from ReXKG.lexicon.lexicon_files import CONTRACTIONS_FILE, read_contractions
from ReXKG.text import split_sentences, tokenize

LOWER_LINE_MARK, BULLET_MARK = "⏎", "•"
CONTRACTIONS = read_contractions(CONTRACTIONS_FILE)
_SIGNS = frozenset("✓✔✅✗✘❌")
_SQUARE = re.compile(r"(?<!\S)\[([^\[\]]{1,80})\]")
_APOSTROPHES = str.maketrans("’‘ʼ´", "''''")
_APART = re.compile(r"(?<![^\W_])--+(?![^\W_])|(?<=\w)--(?=\w)|[—;•·▪◦●‣|=→✓✔✅✗✘❌]|(?<=\s)–(?=\s)")
_CONTRACTED = frozenset(CONTRACTIONS)
_BULLETS = re.compile("[·▪◦●‣]")
_MARKER = re.compile(r"(?:[-*+•·▪◦●‣–—]|\(?(?:\d{1,2}|[A-Za-z])\)|\d{1,2}[.:])(?=\s)|#+")
_NUMBER = r"(?:(?:\d{1,2}|[A-Ha-h]|[ivx]{1,4})\)|#\d{1,2}:?)(?=\s)"
_INNER_NUMBER = re.compile(rf"(?<!\S){_NUMBER}")
_INNER_BRACKET = re.compile(rf"(?<!\S)\({_NUMBER}")
_OPTION = re.compile(r"^([ \t]{0,8}\(?[A-H])\.(?=[ \t])", re.MULTILINE)
_INNER_OPTION = re.compile(r"(?<=\s)([A-H])\.(?=\s)")
# Dots that lead to an answer ("pneumothorax ... no").
_TRAILING = re.compile(
    r"(?:(?<!\.)\.{2,40}|…) {0,4}(?=(?:no|none|nope|yes|yep|absent|present|negative|positive|nothing|clear"
    r"|not (?:seen|present|visible|there|really|at all))\b *(?:[.,;!)\n]|$))",
    re.IGNORECASE,
)
_STAR = re.compile(r"(?<!\S)\*(?=\s)")
_CHECKED, _CROSSED = re.compile("[✓✔✅]"), re.compile("[✗✘❌]")
_MAYBE = re.compile(r"(?<!\S)\?(?=\w)")
# A line that ends in one of these, or in a comma, is not finished.
_UNFINISHED = frozenset(
    {
        "a", "an", "and", "any", "as", "at", "be", "by", "for", "from", "in", "is", "no", "nor", "not", "of", "on",
        "or", "than", "that", "the", "their", "this", "to", "was", "were", "with", "without",
    }
)  # fmt: skip
_ANSWER = re.compile(r"[:?=(|–—-]\W*(?:no|not)$", re.IGNORECASE)
# Reports are broken at 60 characters or more. A shorter line ended where its writer wanted.
_SHORT_LINE = 40


def split_statements(text: str) -> list[str]:
    """The sentences of a text (`split_sentences`). The letter of an option ("A. Effusion") ends none, and neither do
    dots before an answer ("effusion ... no"). A reply belongs to the sentence before it ("I look for an effusion.
    *None* is seen"), and a late answer to its question."""
    has_dots = "." in text
    if (has_dots and ".." in text) or "…" in text:
        text = _TRAILING.sub(" – ", text)
    if has_dots and " vs." in text:
        text = text.replace(" vs.", " vs")
    if "\n" in text:
        text = _OPTION.sub(r"\1)", text)
    if " A. " in text and " B. " in text:
        text = _INNER_OPTION.sub(r"\1)", text)
    if is_asking(text):
        return join_answers(split_sentences(text))
    return split_sentences(mark_replies(text) if has_dots else text)


def read_words(sentence: str) -> tuple[list[str], list[str]]:
    """The plain words of a sentence (`tokenize`), and its words as the rules read them; both in lower case."""
    words = plain = tokenize(sentence)
    if not sentence.isascii() or _has_marks(sentence):
        marked = _mark(sentence)
        if marked is not sentence:
            words = tokenize(marked)
    return plain, write_out(words)


def write_out(words: list[str]) -> list[str]:
    """The words with contractions written out."""
    if _CONTRACTED.isdisjoint(words):
        return words
    return [part for word in words for part in CONTRACTIONS.get(word, (word,))]


def _has_marks(s: str) -> bool:
    """True if an ASCII sentence has any character that `_mark` may change. Written out because it is read so often."""
    return (
        ")" in s or "\n" in s or "?" in s or "*" in s or ";" in s or "--" in s or "|" in s or "=" in s or "`" in s
        or "[" in s or "#" in s
    )  # fmt: skip


def _mark(sentence: str) -> str:
    """The sentence with its lines, bullets and dashes as words of their own; the same object if it has none."""
    if "\n" in sentence:
        sentence = _mark_lines(sentence)
    if "[" in sentence:
        sentence = _SQUARE.sub(_round, sentence)
    if ")" in sentence or "#" in sentence:
        sentence = (_INNER_BRACKET if "(" in sentence else _INNER_NUMBER).sub(f" {BULLET_MARK} ", sentence)
    if not sentence.isascii():
        sentence = _BULLETS.sub(BULLET_MARK, sentence.translate(_APOSTROPHES))
        if sentence.lstrip(" \n-*")[:1] in _SIGNS:
            sentence = _CROSSED.sub(f" {BULLET_MARK} no ", _CHECKED.sub(f" {BULLET_MARK} ", sentence))
    if not sentence.isascii() or ";" in sentence or "--" in sentence or "|" in sentence or "=" in sentence:
        sentence = _APART.sub(r" \g<0> ", sentence)
    if "?" in sentence:
        sentence = _MAYBE.sub(" ", sentence)
    if "*" in sentence:
        sentence = _STAR.sub(BULLET_MARK, sentence).replace("*", " ")
    return sentence.replace("`", "'")


def _round(square: re.Match[str]) -> str:
    """Words in square brackets, in round ones."""
    return f"({square[1]})"


def _mark_lines(sentence: str) -> str:
    """The sentence on one line, with `LINE_MARK` or `BULLET_MARK` where a new statement begins."""
    parts: list[str] = []
    previous, is_apart = "", False
    for raw in sentence.split("\n"):
        line = raw.strip()
        if not line:
            is_apart = True
            continue
        marker = _MARKER.match(line)
        body = line[marker.end() :] if marker else line
        if not previous or previous.rstrip("* ").endswith(":"):
            mark = ""
        elif _is_heading(previous):
            mark = ":"
        elif marker:
            mark = BULLET_MARK
        else:
            mark = LINE_MARK if is_apart else _mark_of_line(line, previous)
        parts += (mark, body)
        previous, is_apart = line, False
    return " ".join(parts)


def _is_heading(line: str) -> bool:
    """True for a line of Markdown that is a heading or all bold."""
    return line.startswith("#") or (len(line) > 4 and line.startswith("**") and line.find("**", 2) == len(line) - 2)


def _mark_of_line(line: str, previous: str) -> str:
    """The mark between two lines, empty if the second continues the first."""
    last = previous[-30:].rsplit(None, 1)[-1].lower()
    if (last in _UNFINISHED and not _ANSWER.search(previous[-30:])) or last.endswith(","):
        return ""
    if not line[0].islower():
        return LINE_MARK
    return LOWER_LINE_MARK if len(previous) < _SHORT_LINE else ""


def word_origins(sentence: str, words: list[str]) -> list[int]:
    """For each of `read_words`, the position of the word of ``words`` that it comes from, where ``words`` are the plain
    words of the sentence (`tokenize`). A mark has the position of the word before it."""
    ends = list(accumulate(_letters(word) for word in words))
    origins: list[int] = []
    position = seen = 0
    for word in tokenize(_mark(sentence)):
        seen += _letters(word)
        while position < len(ends) - 1 and ends[position] < seen:
            position += 1
        origins += [position] * len(CONTRACTIONS.get(word, (word,)))
    return origins


def _letters(word: str) -> int:
    return sum(map(str.isalnum, word))
