"""The two kinds of trouble that are not bugs: a user's mistake and a broken image."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


class UserError(ValueError):
    """A mistake the user can mend. Its text is one sentence: what is wrong, where, and a way out."""


class BrokenImage(Exception):
    """An image that can't be decoded. `where` names it (a path, or `shard.tar::member`)."""

    def __init__(self, where: str, reason: str) -> None:
        # Both values go to the base class: a worker process pickles the exception by its arguments.
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def run_entry_point(main: Callable[[], None]) -> None:
    """Runs `main`; a `UserError` becomes one line on stderr and exit code 2, without a traceback.

    `--debug` on the command line shows the traceback as well. Bugs (all other exceptions) keep theirs.
    """
    try:
        main()
        code = 0
    except UserError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        # A loader worker's error arrives wrapped in its traceback.
        print(f"error: {str(error).rsplit('UserError: ', 1)[-1].strip()}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our stdout (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if code:
        sys.exit(code)
