"""Why KagNet chooses an answer: its attention over pairs of concepts and the paths between them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import matplotlib
import numpy as np
import rich.console
import rich.markup
import rich.tree

matplotlib.use("Agg")  # a file, not a window

import matplotlib.pyplot as plt  # noqa: E402

from data_pipeline.knowledge import store  # noqa: E402
from data_pipeline.tasks import choices  # noqa: E402
from errors import UserError  # noqa: E402
from evaluation import load  # noqa: E402


class Path(NamedTuple):
    """A path in words, and its share of its pair."""

    words: str
    share: float


class Pair(NamedTuple):
    """A concept of the question and one of the choice, its share of all, and its paths."""

    question: str
    answer: str
    share: float
    paths: tuple[Path, ...]


class Reason(NamedTuple):
    """A choice, its score, and its pairs, the largest share first.

    The score is what the loss is made of: sigmoid(logit) for the margin, the probability among the
    choices for cross-entropy.
    """

    choice: str
    score: float
    pairs: tuple[Pair, ...]


def explain(
    model: load.Model, row: Mapping[str, np.ndarray], question: choices.Question, graph: store.Store
) -> list[Reason]:
    """Returns the reasons for and against each choice.

    Args:
      model: of configs/kagnet.py.
      row: the fields of the question, without the axis B.
      question: the texts.
      graph: what the model was trained on.
    """
    batch = {name: x[None] for name, x in row.items()}
    predict = jax.jit(lambda p, b: model.objective.apply({"params": p}, b, method="predict"))
    found = {name: np.asarray(x)[0] for name, x in predict(model.params, batch).items()}
    logits = found["logits"][: len(question.choices)]
    margin = model.config.objective.loss == "margin"
    scores = jax.nn.sigmoid(logits) if margin else jax.nn.softmax(logits)
    reasons = []
    for i, (text, score) in enumerate(zip(question.choices, scores, strict=True)):
        fields = {name: x[i] for name, x in row.items() if x.ndim > 1}
        pairs = _pairs(fields, found["pairs"][i], found["paths"][i], graph)
        reasons.append(Reason(text, float(score), pairs))
    return reasons


def _pairs(fields, of_pairs, of_paths, graph):
    def name(place):
        return graph.entities[fields["concepts"][place] - 1]

    pairs = []
    for j in np.flatnonzero(fields["pair_answer"]):
        paths = [
            Path(_words(fields, k, name, graph.relations), float(of_paths[k]))
            for k in np.flatnonzero(fields["path_pair"] == j + 1)
        ]
        ends = name(fields["pair_question"][j]), name(fields["pair_answer"][j])
        paths.sort(key=lambda path: -path.share)
        pairs.append(Pair(*ends, float(of_pairs[j]), tuple(paths)))
    return tuple(sorted(pairs, key=lambda pair: -pair.share))


def _words(fields, k, name, relations: Sequence[str]):
    """Returns "a -isa-> b <-partof- c": an arrow points from the head of a triple to its tail."""
    words = name(fields["path_heads"][k, 0])
    for relation, tail in zip(fields["path_relations"][k], fields["path_tails"][k], strict=True):
        if relation:
            turned, r = divmod(int(relation) - 1, len(relations))
            arrow = f"<-{relations[r]}-" if turned else f"-{relations[r]}->"
            words += f" {arrow} {name(tail)}"
    return words


def find(questions: Sequence[choices.Question], wanted: str | None) -> int:
    """Returns the number of the question with an id; the first one for None.

    Raises:
      UserError: if there is none.
    """
    if wanted is None:
        return 0
    numbers = {question.id: i for i, question in enumerate(questions)}
    if wanted not in numbers:
        raise UserError(
            f"There is no question {wanted!r}: give an id of the file, such as {questions[0].id!r}."
        )
    return numbers[wanted]


def show(
    question: choices.Question, reasons: Sequence[Reason], console: rich.console.Console, most: int
) -> None:
    """Prints the `most` largest shares of each choice, and of each pair."""
    escape = rich.markup.escape
    best = max(range(len(reasons)), key=lambda i: reasons[i].score)
    console.print(f"[bold]{escape(f'{question.context} {question.question}'.strip())}[/]")
    for i, reason in enumerate(reasons):
        marks = ["chosen"] * (i == best) + ["right"] * (i == question.label)
        title = f"{question.keys[i]}  {escape(reason.choice)}  {reason.score:.3f}"
        tree = rich.tree.Tree(f"[bold]{title}[/] {', '.join(marks)}")
        for pair in reason.pairs[:most]:
            branch = tree.add(f"{pair.share:.3f}  {escape(f'{pair.question} ~ {pair.answer}')}")
            for path in pair.paths[:most]:
                branch.add(f"{path.share:.3f}  {escape(path.words)}")
        if not reason.pairs:
            tree.add("no pair of concepts: judged by its text alone")
        console.print(tree)


def draw(
    question: choices.Question, reasons: Sequence[Reason], path: str, *, most: int = 8
) -> None:
    """Draws for each choice the attention over its pairs, and its paths by share of the whole.

    Args:
      question: the texts.
      reasons: of `explain`.
      path: of the PNG.
      most: paths of a choice that are shown.
    """
    figure, rows = plt.subplots(
        len(reasons), 2, figsize=(13, 2.6 * len(reasons) + 0.6), layout="constrained", squeeze=False
    )
    figure.suptitle(f"{question.context} {question.question}".strip(), wrap=True)
    for (left, right), key, reason in zip(rows, question.keys, reasons, strict=True):
        asked = list(dict.fromkeys(pair.question for pair in reason.pairs))
        answers = list(dict.fromkeys(pair.answer for pair in reason.pairs))
        shares = np.zeros((len(answers), len(asked)))
        for pair in reason.pairs:
            shares[answers.index(pair.answer), asked.index(pair.question)] = pair.share
        left.set_title(f"{key}: {reason.choice} ({reason.score:.3f})", loc="left")
        if not reason.pairs:
            left.text(0.5, 0.5, "no pair of concepts", ha="center", va="center")
            left.axis("off")
            right.axis("off")
            continue
        image = left.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        left.set_xticks(range(len(asked)), asked, rotation=30, ha="right")
        left.set_yticks(range(len(answers)), answers)
        figure.colorbar(image, ax=left, label="share of the pairs")
        paths = [(pair.share * p.share, p.words) for pair in reason.pairs for p in pair.paths]
        paths = sorted(paths, reverse=True)[:most][::-1]
        right.barh(range(len(paths)), [share for share, _ in paths])
        right.set_yticks(range(len(paths)), [words for _, words in paths], fontsize=8)
        right.set_xlabel("share of the pair x share of the path")
        right.set_xlim(left=0)  # the paths of a pair that is hardly looked at are to be seen too
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): name another place.") from error
    finally:
        plt.close(figure)
