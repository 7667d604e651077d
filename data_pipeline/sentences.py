"""Splitting a line of English into sentences, by a rule that gives the same answer everywhere.

A sentence ends after `.`, `!` or `?` (several, and closing quotes or brackets, may follow) where
white space comes next and then a capital letter or a digit, perhaps behind an opening quote or
bracket. A single period does not end it after an abbreviation ("Mr.", "No. 5") or after initials
("J. S. Bach", "the U.S. Army").
"""

import re

CLOSING, OPENING = "\"'”’)\\]", "\"'“‘(\\["
BORDER = re.compile(rf"(?<![.!?])([.!?]++)[{CLOSING}]*+\s++(?=[{OPENING}]*+(\w))")
ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof rev hon st messrs mme mlle sir capt col gen lt maj sgt gov sen rep pres "
    "supt jr sr bros co corp inc ltd dept univ assn vs viz cf al eg ie e.g i.e approx ca ed eds "
    "trans op cit jan feb mar apr jun jul aug sep sept oct nov dec mt ft".split()
)
BEFORE_NUMBERS = frozenset("no nos vol vols fig figs p pp ch sec art chap".split())
INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]$")
LONGEST = 20  # characters of a word before a period that are looked at


def split(line: str) -> list[str]:
    """Returns the sentences of a line without the white space between them; none if it is blank."""
    found, start = [], 0
    for match in BORDER.finditer(line):
        mark, following = match.groups()
        if not (following.isupper() or following.isdigit()):
            continue
        before = line[max(start, match.start() - LONGEST) : match.start()].split()
        if mark == "." and before and _is_short(before[-1].lstrip("\"'“‘(["), following):
            continue
        found.append(line[start : match.end()].strip())
        start = match.end()
    found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def _is_short(word: str, following: str) -> bool:
    """Whether a period belongs to the word before it; the word "I" has none."""
    if word.lower() in BEFORE_NUMBERS:
        return following.isdigit()
    return word.lower() in ABBREVIATIONS or (word != "I" and bool(INITIALS.match(word)))
