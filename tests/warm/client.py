"""Stand-in for the interpreter: passes a script's command line to the server, and ends as the script ended.

Written to a temporary folder as `python`, with REAL (the interpreter) and ADDRESS (the server's socket) filled in. What
isn't `python [-u] FILE …`, `python [-u] -m MODULE …` or the start of multiprocessing's own fork server runs in the real
interpreter.
"""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence

REAL = ""
ADDRESS = ""
FORK_SERVER = re.compile(r"from multiprocessing\.forkserver import main; main\((\d+), (\d+), ")
"""Code that multiprocessing gives to `python -c`, with the numbers of the two descriptors that it hands over."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def ask(
    address: str, words: Sequence[str], cwd: str, env: dict[str, str], python: str, streams: Sequence[int],
    more: Sequence[int] = (),
) -> tuple[socket.socket, int]:  # fmt: skip
    """The connection over which the exit status will come, and the process id; OSError where nothing listens.

    `streams`: descriptors of the three standard streams; `more`: further ones, which keep their numbers.
    """
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    request = json.dumps({"words": list(words), "cwd": cwd, "env": env, "python": python, "more": [*more]}).encode()
    descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [*streams, *more]))]
    server.sendmsg([len(request).to_bytes(4, "little")], descriptors)
    server.sendall(request)
    return server, int.from_bytes(server.recv(4), "little")


def main(words: list[str]) -> None:
    rest = words[1:] if words[:1] == ["-u"] else words
    fork_server = FORK_SERVER.match(words[-1]) if "-c" in words[-2:] else None
    if fork_server:
        rest = words[-2:]
    elif not rest or (rest[0].startswith("-") and rest[0] != "-m"):
        os.execv(REAL, [REAL, *words])
    more = [int(number) for number in fork_server.groups()] if fork_server else []
    try:
        server, child = ask(ADDRESS, rest, os.getcwd(), dict(os.environ), sys.argv[0], (0, 1, 2), more)
    except OSError:
        os.execv(REAL, [REAL, *words])
    for number in FORWARDED:
        signal.signal(number, lambda received, _: os.kill(child, received))
    code = int.from_bytes(server.recv(4), "little", signed=True)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
