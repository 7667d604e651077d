"""How fast a run is, and what a person sees of it: a bar on a terminal, plain lines elsewhere."""

import collections
import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping

import rich.console
import rich.progress

_ASIDE = ("eval", "save")  # what steps do not go on beside
_SAID = {
    "start": "starting and compiling",
    "input": "waiting for input",
    "eval": "evaluating",
    "save": "saving",
}


class Clock:
    """Where the time of a run goes.

    Waiting for input is what the host does: the device may still be busy with steps dispatched
    before, so this is an upper bound of what input costs.
    """

    def __init__(
        self,
        *,
        tokens_per_step: int,
        flops_per_step: float | None,
        peak_flops: float | None,
        full_steps: Callable[[int], float] = float,
    ):
        """Starts; what passes until the first `tick` is start-up.

        `full_steps` tells how many steps of full batches have as many rows as the first so many.
        """
        self._full_steps = full_steps
        self._tokens_per_step = tokens_per_step
        self._mfu_seconds = flops_per_step and peak_flops and flops_per_step / peak_flops
        self._begun = time.perf_counter()
        self._spent = collections.Counter()  # seconds of what `_SAID` has
        self._lap: tuple[int, float, collections.Counter] | None = None
        self._nonpad_tokens: float | None = 0.0  # of this lap; None if the steps do not count them

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts the time of its body as `what`: "input", "eval" or "save"."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] += time.perf_counter() - begun

    def tick(self, step: int, nonpad_tokens: float | None) -> dict[str, float]:
        """Takes note of a finished step.

        Returns:
          `perf/...` of the steps since the lap began: seconds, and rates over all devices. Nothing
          for the first step, in which the compiler works.
        """
        now = time.perf_counter()
        if self._lap is None:
            self._spent = collections.Counter(start=now - self._begun)
            self.begin_lap(step)
            return {}
        first, begun, spent_before = self._lap
        if nonpad_tokens is None or self._nonpad_tokens is None:
            self._nonpad_tokens = None
        else:
            self._nonpad_tokens += nonpad_tokens
        spent = {what: self._spent[what] - spent_before[what] for what in _SAID}
        seconds = now - begun - sum(spent[what] for what in _ASIDE)
        full = self._full_steps(step) - self._full_steps(first)
        perf = {
            "perf/step_time": seconds / (step - first),
            "perf/tokens_per_s": self._tokens_per_step * full / seconds,
            "perf/input_wait": spent["input"] / seconds,
        }
        if self._nonpad_tokens is not None:
            perf["perf/nonpad_tokens_per_s"] = self._nonpad_tokens / seconds
        if self._mfu_seconds:
            perf["perf/mfu"] = self._mfu_seconds * full / seconds
        return perf

    def begin_lap(self, step: int) -> None:
        """Makes the figures begin behind `step`."""
        self._lap = step, time.perf_counter(), self._spent.copy()
        self._nonpad_tokens = 0.0

    def goodput(self) -> str:
        """Returns one line: the share of the wall time that went into steps, and into what else."""
        total = time.perf_counter() - self._begun
        steps = total - self._spent.total() if self._lap else 0.0
        shares = [f"{steps / total:.1%} steps"]
        shares += [f"{self._spent[what] / total:.1%} {said}" for what, said in _SAID.items()]
        return f"Time {_clock_time(total)}: {', '.join(shares)}."


class Progress:
    """A bar that follows every step, or one line for each row of the metrics."""

    def __init__(self, *, total_steps: int, start_step: int):
        """Shows the bar, if the output is a terminal."""
        self._total_steps = total_steps
        self._console = rich.console.Console(highlight=False, soft_wrap=True)
        self._bar = None
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                "step {task.completed:.0f}/{task.total:.0f}",
                rich.progress.BarColumn(bar_width=20),
                "{task.fields[text]}",
                console=self._console,
            )
            self._task = self._bar.add_task(
                "train", total=total_steps, completed=start_step, text="compiling"
            )
            self._bar.start()

    def step(self, step: int, loss: float | None, perf: Mapping[str, float]) -> None:
        """Moves the bar to a finished step."""
        if self._bar is not None:
            shown = {} if loss is None else {"loss": loss}
            self._bar.update(self._task, completed=step, text=self._describe(step, shown, perf))

    def row(self, step: int, values: Mapping[str, float], perf: Mapping[str, float]) -> None:
        """Prints a row of the metrics; under a bar only evaluations, which it does not show."""
        if self._bar is None or any(name.startswith("valid/") for name in values):
            shown = {name.removeprefix("train/"): value for name, value in values.items()}
            self.say(f"step {step}/{self._total_steps}  {self._describe(step, shown, perf)}")

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leaves the bar as it stands and gives the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def _describe(self, step: int, values: Mapping[str, float], perf: Mapping[str, float]) -> str:
        parts = [f"{name} {value:.4g}" for name, value in values.items()]
        if perf:
            left = (self._total_steps - step) * perf["perf/step_time"]
            parts += [f"{perf['perf/tokens_per_s']:,.0f} tokens/s", f"{_clock_time(left)} left"]
        return "  ".join(parts)


def _clock_time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
