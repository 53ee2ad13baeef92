"""The two kinds of trouble that are not bugs: a user's mistake and a broken image."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable


class UserError(ValueError):
    """A mistake the user can mend. Its text is one sentence: what is wrong, where, and a way out."""

    def __init__(self, text: str) -> None:
        # Names and values from files may hold line breaks; what is printed is one line.
        super().__init__(" ".join(str(text).splitlines()))


class BrokenImage(Exception):
    """An image that can't be decoded. `where` names it (a path, or `shard.tar::member`)."""

    def __init__(self, where: str, reason: str) -> None:
        # Both values go to the base class: a worker process pickles the exception by its arguments.
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.reason}".splitlines())


def run_entry_point(main: Callable[[], None]) -> None:
    """Runs `main`; a `UserError` becomes one line on stderr and exit code 2, without a traceback.

    So does trouble that the operating system has with a file. `--debug` on the command line shows the traceback as
    well. Bugs (all other exceptions) keep theirs. Of several processes that find the same only one says so.
    """
    from core.failures import explain, wait_for_root_cause

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        code = 0
    except UserError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        wait_for_root_cause(follows_from_another=False)
        # A loader worker's error arrives wrapped in its traceback.
        print(f"error: {str(error).rsplit('UserError: ', 1)[-1].strip()}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our stdout (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (RuntimeError, OSError) as error:
        sentence = explain(error)
        if not sentence and isinstance(error, OSError) and error.filename is not None:
            # A name that is too long, a folder that can't be entered, a disk that went away.
            sentence = f"{error.filename}: {error.strerror}; give another place, or mend that one"
        if not sentence:
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        wait_for_root_cause(follows_from_another=sentence.startswith("another process"))
        print(f"error: {sentence}", file=sys.stderr)
        code = 2
    if code:
        sys.exit(code)
