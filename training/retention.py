"""Which checkpoints are kept: the newest ones, and the best ones by a metric."""

import math
from typing import NamedTuple

from errors import UserError

BY_LOSS = "min:valid/loss"


class Best(NamedTuple):
    """By what checkpoints are compared: min or max, and the name of a metric."""

    order: str
    metric: str

    def __str__(self) -> str:
        return f"{self.order}:{self.metric}"

    def score(self, metrics: dict[str, float]) -> float:
        """Returns a number that is the lower the better, nan where the metric is not measured."""
        value = metrics.get(self.metric, math.nan)
        return -value if self.order == "max" else value


def parse(text: str) -> Best:
    """Reads config.checkpoint.best.

    Raises:
      UserError: if it does not read min:METRIC or max:METRIC.
    """
    order, _, metric = text.partition(":")
    if order not in ("min", "max") or not metric:
        raise UserError(
            f"config.checkpoint.best={text} must say whether less or more is better, such as "
            "min:valid/loss or max:valid/accuracy."
        )
    return Best(order, metric)


def lowest(scores: dict[int, float]) -> int | None:
    """Returns the step with the lowest score, None if there is none."""
    return min(scores, key=scores.__getitem__, default=None)


class LatestAndBest:
    """An Orbax PreservationPolicy.

    Orbax's own BestN reads the metrics from a file without a checksum, and dies if it is damaged.
    """

    def __init__(self, keep: int, keep_best: int, scores: dict[int, float]):
        """Takes how many of the newest and of the best stay, and what is there: step -> score."""
        self._keep, self._keep_best, self._scores = keep, keep_best, scores

    def add(self, step: int, score: float) -> None:
        """Notes the score of a step that is saved; nan: it has none."""
        self._scores.pop(step, None)  # that of a damaged checkpoint, now set aside
        if math.isfinite(score):
            self._scores[step] = score

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Returns for each checkpoint whether it stays."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = sorted((s for s in steps if s in self._scores), key=self._scores.__getitem__)
        kept = {*steps[-self._keep :], *ranked[: self._keep_best]}
        return [step in kept for step in steps]
