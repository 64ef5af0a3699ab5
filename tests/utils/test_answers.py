"""Answers as models and data sets write them: lists, numbers, sentences and letters of options."""

from __future__ import annotations

import itertools
import random

import pytest

from utils.answers import answer_text, answers_agree, first_sentence, in_form_of, normalise_answers, parse_answers
from utils.metrics import judge
from utils.strict_rewards import answers_f1

LISTS = [
    ("", set(), "garbage: nothing"),
    (" ,;, and ", set(), "separators alone list nothing"),
    ("a,b", {"a", "b"}, "comma"),
    ("a，b、c", {"a", "b", "c"}, "full-width commas"),
    ("a;b；c", {"a", "b", "c"}, "semicolons"),
    ("a\nb\r\nc", {"a", "b", "c"}, "line breaks"),
    ("a and b", {"a", "b"}, "and"),
    ("a, b, and c", {"a", "b", "c"}, "a comma before and"),
    ("a AND b", {"a", "b"}, "and in capitals"),
    ("a & b", {"a", "b"}, "ampersand"),
    ("hand and brand", {"hand", "brand"}, "and inside a word does not split"),
    ("- nodule\n- edema", {"nodule", "edema"}, "bullets"),
    ("* nodule\n• edema", {"nodule", "edema"}, "other bullets"),
    ("nodule in 1. segment", {"nodule in 1. segment"}, "a number within an answer stays"),
    ("1. nodule\n2) edema\n(3) mass", {"nodule", "edema", "mass"}, "numbered lines"),
    ("**Yes**", {"yes"}, "markup"),
    ("“yes”", {"yes"}, "quotes"),
    ("'yes'.", {"yes"}, "quotes and a full stop"),
    ("Yes.", {"yes"}, "a full stop"),
    ("yes。", {"yes"}, "a full-width full stop"),
    ("lobar/segmental  collapse", {"lobar/segmental collapse"}, "a slash stays, blanks are one"),
    ("increased reticular markings/ild pattern", {"increased reticular markings/ild pattern"}, "an answer of the data"),
    ("copd/emphysema (mild)", {"copd/emphysema (mild)"}, "brackets stay"),
    ("3.5", {"3.5"}, "a decimal number"),
    ("3.0", {"3"}, "a whole number as pandas writes it"),
    ("-2", {"-2"}, "a minus sign is not a bullet"),
    ("3.", {"3"}, "a number with a full stop"),
]


@pytest.mark.parametrize(("text", "expected", "reason"), LISTS)
def test_lists_are_read_as_models_write_them(text, expected, reason):
    assert parse_answers(f"<think>x</think><answer>{text}</answer>") == expected, reason


@pytest.mark.parametrize(("text", "expected", "reason"), LISTS)
def test_annotations_are_read_by_the_same_rule(text, expected, reason):
    assert normalise_answers([text]) == expected, reason


def test_reading_what_was_read_changes_nothing():
    generator = random.Random(0)
    pieces = ["a", "b c", " and ", ",", ";", "\n", "\n- ", "\n1. ", "3.0", "yes.", "(x)", " "]
    for _ in range(2000):
        once = normalise_answers(["".join(generator.choices(pieces, k=6))])
        assert normalise_answers(sorted(once)) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The nodule measures 3.5 cm. It is new.", "The nodule measures 3.5 cm"),
        ("Version 2.0.1 of it! More.", "Version 2.0.1 of it"),
        ("It is 3. Then more.", "It is 3"),
        ("About .5 cm. More.", "About"),
        ("是。后文", "是"),
        ("no end", "no end"),
    ],
)
def test_a_decimal_point_does_not_end_a_sentence(text, expected):
    assert first_sentence(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, "yes"), (False, "no"), (3, "3"), (3.0, "3"), (2.5, "2.5"), ("x", "x"), (None, ""), (float("nan"), "nan")],
)
def test_answers_of_a_data_set_become_text(value, expected):
    assert answer_text(value) == expected


LETTERS = [
    ("b", {"a"}, False, "the other letter"),
    ("pleural effusion", {"a"}, False, "the text of an option is not its letter"),
    ("a heart", {"a"}, False, "an article is not a letter"),
    ("abc", {"a"}, False, "a word that begins with the letter"),
    ("A", {"a"}, True, "the letter"),
    ("A.", {"a"}, True, "with a full stop"),
    ("(A)", {"a"}, True, "in brackets"),
    ("A)", {"a"}, True, "with a bracket"),
    ("Option A", {"a"}, True, "named as option"),
    ("option (a)", {"a"}, True, "named and in brackets"),
    ("Answer: A", {"a"}, True, "named as answer"),
    ("The answer is A.", {"a"}, True, "a sentence"),
    ("The correct answer is option B", {"b"}, True, "a longer sentence"),
    ("A. Pleural effusion", {"a"}, True, "with the option's text"),
    ("(A) Pleural effusion", {"a"}, True, "in brackets with the text"),
    ("A: small, left", {"a"}, True, "text with a comma"),
    ("A, C", {"a", "c"}, True, "two letters"),
    ("male", {"m"}, False, "a word is not a letter of sex"),
    ("M", {"m"}, True, "the letter of sex"),
    ("A. Pleural effusion", {"pleural effusion"}, True, "a letter before the text that the reference holds"),
    ("(b) edema", {"edema"}, True, "in brackets before the text"),
    ("a) edema", {"effusion"}, False, "another text"),
    ("option a", {"effusion"}, False, "a letter is not the text"),
]


@pytest.mark.parametrize(("text", "reference", "expected", "reason"), LETTERS)
def test_letters_of_options_agree_with_their_reference(text, reference, expected, reason):
    predicted = parse_answers(f"<answer>{text}</answer>")
    assert answers_agree(predicted, frozenset(reference)) is expected, reason


def test_all_rules_read_letters_alike():
    verdicts = judge("<answer>(A)</answer>", frozenset({"a"}))
    assert verdicts == {"substring": True, "answer_overlap": True, "answer_span": True, "exact_set": True}
    assert answers_f1(parse_answers("<answer>(A)</answer>"), frozenset({"a"})) == 1.0


def test_answers_without_letters_stay_as_they_are():
    vocabulary = ["yes", "no", "left lung", "edema", "m", "pa"]
    for pair in itertools.combinations(vocabulary, 2):
        assert in_form_of(frozenset(pair), frozenset({"yes", "edema"})) == frozenset(pair)
