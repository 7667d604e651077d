"""The one exception that means "change your input", and how a program ends on it.

Everything a user can get wrong (a value in a config, a file, a vocabulary, a mesh) raises
`UserError` with one sentence that says what to change. A bug raises anything else and keeps its
traceback.
"""

import difflib
import sys
from collections.abc import Callable, Iterable

from absl import flags, logging


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
        if not flags.FLAGS["verbosity"].present:  # Orbax tells every file that it writes
            logging.set_verbosity(logging.WARNING)
        try:
            return main(*args)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags for `app.run`: a config that cannot be read or overridden is one line too."""
    try:
        rest = flags.FLAGS([argv[0], *map(_with_underscores, argv[1:])])
        config = flags.FLAGS.config if "config" in flags.FLAGS else None
        if config is not None and not isinstance(config, str):  # in scripts/sweep.py a mere name
            config.keys()  # a file that could not be read says so at its first use
        return rest
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
        # config_flags runs the config file and its overrides here, and lets their errors through;
        # those of the file come as a whole traceback, whose last line says it.
        text = str(error.args[0] if error.args else error).strip()
        if "Traceback" in text:
            text = text.splitlines()[-1].partition(": ")[2]
        if isinstance(error, AttributeError | KeyError):
            text = f"Unknown config key {text}".replace("\\n", " ").replace("\\'", "'")
        print("error:", " ".join(text.split()), file=sys.stderr)
        sys.exit(2)


def _with_underscores(argument: str) -> str:
    """Returns --dry-run=x as --dry_run=x where that is a flag, and anything else as it is."""
    name, equals, value = argument.partition("=")
    known = name.removeprefix("--").replace("-", "_")
    return f"--{known}{equals}{value}" if name[:2] == "--" and known in flags.FLAGS else argument
