"""Answers that stand in a sentence of their own.

A reply belongs to the sentence before it ("I look for an effusion. *None* is seen"). A late answer belongs to the last
question ("Is there edema? The vessels are crisp. *So no.*"). Both are joined to it by ";", where the rules find them.
"""

from __future__ import annotations

import re

LINE_MARK = ";"
_JOINT = f" {LINE_MARK}"  # a word of its own
_REPLIES = ("None", "Yes", "No.", "No,", "Not ", "Today", "Now", "Currently", "On this ")
_REPLY_WORDS = (
    r"(?:None(?: (?:is|are|was|were))?(?: (?:seen|visible|identified|present))?|Yes|No|Not (?:seen|present|visible)"
    r"|(?:Today|Now|Currently|On this (?:film|image|one|study)),? "
    r"(?:there(?:['’]s| is| are)(?: none| one)?|none|(?:it['’]s|it is|they['’]re|they are) gone))"
)
_REPLY = re.compile(rf"\.(?=\s{{1,4}}(?:→ |-> )?{_REPLY_WORDS}(?:[.,]|$))")
_REPLY_SENTENCE = re.compile(rf"\s{{1,4}}(?:→ |-> )?{_REPLY_WORDS}(?:,|$)")
# A sentence that says only an answer ("So the answer is no", "I do not see one"), or begins with one ("So yes, ...").
_LATE_ANSWER = re.compile(
    r"""\W*(?:(?:so|thus|therefore|hence|then|overall|okay|ok|well|and|but|in|short|summary|conclusion|the|end|to|conclude
    |my|final|i|i['’]d|i['’]m|would|will|have|we|say|answer|verdict|question|this|that|it|is|must|should|be|think|with
    |lean|probably|likely|definitely|certainly|clearly|most|towards?|going|go|all|based|on|a)\b(?:['’]s\b)?[\s,:;"'*→>=-]*)*
    (?:(?:yes|no|nope|yep|yeah|negative|affirmative)\b["'*]*(?:\W*$|[,;:—–-])
    |(?:none(?:\ (?:is|are)\ (?:seen|visible|present|identified))?|not\ (?:seen|present|visible|there|at\ all)|absent
    |gone|(?:there|it|they|that|we|i|you)\ (?:is|are|do|does|can|could)(?:n['’]t|\ not|['’]t|not)
      (?:\ (?:see\ |find\ |identify\ )?(?:one|any|it|there|present|visible|seen))?
    |(?:(?:there|it|they)\ (?:is|are)|(?:there|it)['’]s)(?:\ (?:none|one|some|absent|present|gone|there|not)){0,2}
    |(?:i['’]?d?\ |we\ )?(?:would\ )?(?:say|think|believe|suppose|guess)\ so
    |(?:i|we)\ (?:do|would|could|can)(?:\ not|n['’]t)\ (?:say|think|believe|suppose)\ so
    |not|not\ that\ i\ can\ (?:see|tell)
    |(?:i|we)\ (?:can\ |do\ )?(?:see|find)\ (?:none|one|it)|it\ does|they\ do)\W*$)""",
    re.IGNORECASE | re.VERBOSE,
)
_ASKING = re.compile(
    r"\b(?:whether|asked if|asks if|asking if|see if|determine if|know if|decide if|check if)\b", re.IGNORECASE
)
_FARTHEST_QUESTION, _LONGEST_LATE_ANSWER = 8, 200


def is_asking(text: str) -> bool:
    """True if a question may be in the text."""
    if "?" in text:
        return True
    return ("hether" in text or " if " in text) and _ASKING.search(text) is not None


def mark_replies(text: str) -> str:
    """The text with ";" in place of the dot before a reply."""
    return _REPLY.sub(_JOINT, text) if any(map(text.__contains__, _REPLIES)) else text


def join_answers(sentences: list[str]) -> list[str]:
    """The sentences of a text that asks, with each answer joined to what it answers."""
    joined: list[str] = []
    asked: int | None = None
    for sentence in sentences:
        is_near = asked is not None and len(joined) - asked <= _FARTHEST_QUESTION
        if is_near and len(sentence) < _LONGEST_LATE_ANSWER and _LATE_ANSWER.match(sentence):
            joined[asked] = _answered(joined[asked], sentence)
            asked = None
        elif joined and _REPLY_SENTENCE.match(sentence):
            joined[-1] += _JOINT + sentence
        else:
            if is_asking(sentence):
                asked = len(joined)
            joined.append(sentence)
    return joined


def _answered(question: str, answer: str) -> str:
    """The question with its answer right behind its mark, if it has one, or at its end."""
    before, mark, after = question.rpartition("?")
    if not mark:
        return f"{question}{_JOINT}{answer}"
    return f"{before}{mark}{answer}{_JOINT}{after}" if after.strip() else f"{before}{mark}{answer}"
