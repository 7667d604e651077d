"""What a person sees while data is prepared: a bar on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

EVERY = 10  # seconds between plain lines


@contextlib.contextmanager
def shown() -> Iterator[Callable[[str, int, int | None], None]]:
    """Gives a function (stage, done, total or None) that shows how far a stage is.

    `done` and `total` are in any unit: a share is shown.
    """
    console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = ("{task.description}", rich.progress.BarColumn(), rich.progress.TaskProgressColumn())
    with rich.progress.Progress(
        *columns, rich.progress.TimeRemainingColumn(), console=console
    ) as bar:
        tasks = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage)
            bar.update(tasks[stage], completed=done, total=total)

        yield report


def _lines(console: rich.console.Console) -> Callable[[str, int, int | None], None]:
    last = {}

    def report(stage: str, done: int, total: int | None) -> None:
        finished, now = done == total, time.monotonic()
        if finished or now - last.get(stage, -EVERY) >= EVERY:
            last[stage] = now
            console.print(f"{stage}: {done / total:.0%}" if total else f"{stage}: {done:,}")

    return report
