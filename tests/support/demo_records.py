"""Texts of the demo world's records."""

from __future__ import annotations

import re


def solution(record: dict) -> str:
    """The reference of a record of any form."""
    return record.get("explanation") or record.get("solution") or record["messages"][1]["content"]


def thoughts(record: dict) -> str:
    """The reasoning in a record's reference, tagged or in prose."""
    tagged = re.fullmatch(r"<think>(.*)</think><answer>.*</answer>", solution(record))
    return (tagged or re.fullmatch(r"(.*) So the answer is .*\.", solution(record)))[1]
