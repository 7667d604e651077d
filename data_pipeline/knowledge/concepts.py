"""Which concepts a text names: lemmatized n-grams that a vocabulary has (KagNet, grounding)."""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from errors import UserError

LONGEST = 4  # words of a concept
ALIKE = 3  # concepts that the same words may mean, the shortest ones
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")

PRONOUNS = frozenset(
    "i me my mine myself you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself we us our ours ourselves they them their theirs themselves one "
    "this that these those who whom whose which what someone somebody something anyone anybody "
    "anything everyone everybody everything nobody nothing".split()
)
# Function words, in both their forms: a concept made of these alone says nothing.
STOP_WORDS = PRONOUNS | frozenset(
    "a an the and or but nor so yet if then else when where why how while because as until unless "
    "although though since than whether of at by for with without about against between into "
    "through during before after above below to from up down in out on off over under again "
    "further once here there all any both each few more most other another some such no not only "
    "own same too very can could will would shall should may might must do does did done doing be "
    "am is are was were been being have has had having get got go let also just even ever never "
    "always often much many lot likely might must able else per via upon within along across "
    "don't doesn't didn't isn't aren't wasn't weren't can't cannot won't wouldn't couldn't "
    "shouldn't would've s t ve re ll".split()
)


class Span(NamedTuple):
    """Words of a text and the concepts that they mean."""

    start: int  # the first word
    words: int
    concepts: tuple[int, ...]


def words(text: str) -> list[str]:
    """Returns the lower-cased words of a text; of KagNet's concepts too, with their underscores."""
    return _WORD.findall(text.lower().replace("_", " "))


@functools.lru_cache(maxsize=1 << 18)
def lemma(word: str) -> str:
    """Returns the dictionary form of an English word.

    Raises:
      UserError: without the extra `knowledge`.
    """
    try:
        import simplemma
    except ImportError as error:
        raise UserError(
            "Recognizing concepts needs simplemma: pip install '.[knowledge]'."
        ) from error
    return simplemma.lemmatize(word, lang="en").lower()


class Recognizer:
    """Finds the concepts of a vocabulary in texts."""

    def __init__(self, concepts: Sequence[str]):
        """Takes the names; a concept's number is its place. Those of no use are never found.

        Of no use are names with other characters than letters (extract_cpnet.py), of more than
        LONGEST words, such that begin or end with a pronoun, and those of stop words alone.
        """
        found: dict[tuple[str, ...], list[int]] = {}
        for number, name in enumerate(concepts):
            parts = words(name)
            if not re.sub("[ _-]", "", name).isalpha():
                continue
            if not 0 < len(parts) <= LONGEST or {parts[0], parts[-1]} & PRONOUNS:
                continue
            lemmas = tuple(map(lemma, parts))
            if STOP_WORDS.issuperset(parts) or STOP_WORDS.issuperset(lemmas):
                continue
            found.setdefault(lemmas, []).append(number)
        self._meanings = {
            lemmas: tuple(sorted(numbers, key=lambda i: (len(concepts[i]), i))[:ALIKE])
            for lemmas, numbers in found.items()
        }

    def spans(self, text: str) -> list[Span]:
        """Returns what the text names, also parts of longer names; the longest first."""
        lemmas = [lemma(word) for word in words(text)]
        found = []
        for count in range(min(LONGEST, len(lemmas)), 0, -1):
            for start in range(len(lemmas) - count + 1):
                meanings = self._meanings.get(tuple(lemmas[start : start + count]))
                if meanings:
                    found.append(Span(start, count, meanings))
        return found

    def concepts(self, text: str) -> list[int]:
        """Returns the numbers of the concepts that the text names, each once."""
        return list(dict.fromkeys(i for span in self.spans(text) for i in span.concepts))
