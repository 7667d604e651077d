"""Where sentences end, and that no line makes the rule slow."""

import time

import pytest

from data_pipeline import sentences


def test_sentences():
    text = (
        'Mr. Smith met J. S. Bach of the U.S. Army, e.g. here. He said "Go!" Then he left... '
        "It was 1984. 3 men came (as No. 5 says). So did I. “Why?” asked Ann. Élan. pi is 3.14 now."
    )
    assert sentences.split(text) == [
        "Mr. Smith met J. S. Bach of the U.S. Army, e.g. here.",
        'He said "Go!"',
        "Then he left...",
        "It was 1984.",
        "3 men came (as No. 5 says).",
        "So did I.",
        "“Why?” asked Ann.",
        "Élan. pi is 3.14 now.",
    ]
    assert sentences.split(" \t") == []


@pytest.mark.parametrize("unit", ["a", '"', ".", ". ", "A. ", "Mr. A "])
def test_sentences_of_hostile_lines_take_linear_time(unit):
    start = time.monotonic()
    sentences.split(unit * 100_000)
    assert time.monotonic() - start < 5
