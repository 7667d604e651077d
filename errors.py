"""The one exception that means "change your input", and how a program ends on it.

Everything a user can get wrong (a value in a config, a file, a vocabulary, a mesh) raises
`UserError` with one sentence that says what to change. A bug raises anything else and keeps its
traceback.
"""

import sys
from collections.abc import Callable, Iterable
import difflib


class UserError(Exception):
    """A mistake in the input, told in one sentence that says what to change."""


def one_of(what: str, value: str, table: Iterable[str]) -> str:
    """Returns `value` if `table` has it.

    Raises:
      UserError: naming the nearest entries and all that would be accepted.
    """
    names = sorted(table)
    if value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"Unknown {what} {value!r}.{hint} Choose one of: {', '.join(names)}.")


def exit_on_user_error(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps a program's main: a `UserError` becomes one line on stderr and exit status 2."""

    def wrapped(*args):
        try:
            return main(*args)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
