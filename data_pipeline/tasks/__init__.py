"""TASKS: from a name in a config to a labeled task, and the rows that are made of its examples.

Multiple-choice tasks have a table of their own, choices.CHOICES. Letters: `B` rows, `T` tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

from data_pipeline import tokenizers
from data_pipeline.tasks import choices, glue, published

# BoolQ asks for yes or no: a class of question and passage (Clark et al., NAACL 2019).
_BOOLQ = glue.Task(
    "boolq",
    ("boolq", "BoolQ"),
    ("question", "passage"),
    "answer",
    ("False", "True"),
    choices.CHOICES["boolq"].rows,
)
TASKS: dict[str, glue.Task] = {**glue.TASKS, "boolq": _BOOLQ}


def read_examples(name: str, path: published.Path, split: str) -> list[glue.Example]:
    """Reads the examples of a task of TASKS; see `glue.read`."""
    if name in glue.TASKS:
        return glue.read(TASKS[name], path, split)
    questions = choices.read(choices.CHOICES[name], path, split)
    return [glue.Example((q.question, q.context), q.label, q.id) for q in questions]


class Labeled:
    """What the pipelines of a labeled task have in common.

    They play the part of a `rows.Pipeline` whose records are made at the start of a run: there is
    nothing random in them. `examples` reads a split of one of TASKS.
    """

    static = True
    TASKS: Mapping[str, Any] = TASKS
    examples: Callable[[str, published.Path, str], list] = staticmethod(read_examples)

    @classmethod
    def classes(cls, name: str) -> int:
        """Returns the classes of a task; 1: regression, 0: the choices of a question."""
        return max(1, len(cls.TASKS[name].classes))

    @staticmethod
    def adapt(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
        """Returns the vocabulary of the run, given that of the model it starts from."""
        return tokenizer
