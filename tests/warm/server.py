"""A server that has imported the heavy libraries, and forks a process for each command line that it receives.

Commands of the tests start in a fraction of a second instead of five to ten. Each still is a process of its own, in a
session of its own, with the caller's folder, environment and standard streams. Front doors of this checkout find the
project's modules imported, too; everything else, a copy of the checkout above all, imports them itself.

    python tests/warm/server.py ADDRESS
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("torch.distributed.run", "torch.utils.data", "torchvision.transforms.v2", "timm", "sklearn.linear_model",
           "faiss", "safetensors.torch", "matplotlib.pyplot", "pydantic.main", "pydantic.type_adapter",
           "pydantic.dataclasses", "pydantic.fields")  # fmt: skip
PROBES = ("knn", "linear", "logreg", "finetune")
OURS = ("pretrain.trainer", "pretrain.command", "pretrain.plan", "converters.open", "evaluate.probes.main",
        *(f"evaluate.probes.{probe}.probe" for probe in PROBES))  # fmt: skip
FOLDERS = ("core/backbones", "pretrain/losses", "pretrain/transforms", "converters/families", "converters/inference",
           "converters/key_maps", "converters/settings")  # fmt: skip
"""Folders of the project whose files are found when a command needs them."""
DETECTION = ("detectron2.engine", "detectron2.model_zoo", "pycocotools.cocoeval")
SEGMENTATION = ("mmseg.apis",)
COLLECTED = ("datasets", "scipy.stats", "skimage.segmentation", "sklearn.neighbors", "torchvision.models")
ENGINES = {"coco": DETECTION, "segment": SEGMENTATION, "xdist_process": (*DETECTION, *SEGMENTATION, *COLLECTED)}
"""Imported before the first command line with this word."""


def preload(names: tuple[str, ...]) -> None:
    """Imports what is installed of `names`; Detectron2 with the names and modules that it needs and libraries lack."""
    os.environ["DETECTRON2_ENV_MODULE"] = str(ROOT / "converters/engines/detectron2_compat.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(ImportError):
                __import__(name)
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy the pages of all imported objects


def shorten_starts() -> None:
    """Does once what each start repeats, and leaves out a search of torchrun's that no test looks at."""
    import PIL.Image
    from pydantic import TypeAdapter
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    PIL.Image.init()
    TypeAdapter(int)  # looks for plug-ins among all packages
    # To name its events, torchrun looks for the source of each imported module on the stack: 2 s per start.
    dynamic_rendezvous.get_method_name = lambda depth=2: "unnamed"


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request (words of the command line, cwd, env, name of the interpreter) and its open descriptors."""
    head, streams, _, _ = socket.recv_fds(connection, 4, 5)
    wanted, text = int.from_bytes(head, "little"), b""
    while len(text) < wanted:
        text += connection.recv(wanted - len(text))
    return json.loads(text), streams


def serve(address: str) -> tuple[dict[str, Any], list[int]]:
    """Returns in the forked processes only, with the request that each has to run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    sys.path.insert(0, str(ROOT))
    found = [file.relative_to(ROOT) for folder in FOLDERS for file in sorted((ROOT / folder).glob("[!_]*.py"))]
    preload((*MODULES, *OURS, *(".".join(file.with_suffix("").parts) for file in found)))
    del sys.path[0]
    shorten_starts()
    if sys.dont_write_bytecode:  # containers often set it; each process would compile the project and its tests anew
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(ROOT / ".pytest_cache/bytecode")
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, woken, *running.values()], [], [])
        if woken in ready:
            os.read(woken, 4096)
        for child, connection in list(running.items()):
            if connection in ready:  # closed: whoever asked has gone
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0 if connection in ready else os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError):
                    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))
                running.pop(child).close()
        if listener in ready:
            connection, _ = listener.accept()
            request, streams = receive(connection)
            for word, names in ENGINES.items():
                if any(word in given for given in request["words"]) and not {*names} <= {*sys.modules}:
                    preload(names)
            child = os.fork()
            if not child:
                signal.set_wakeup_fd(-1)
                for opened in (listener, connection, *running.values()):
                    opened.close()
                for descriptor in (woken, wake):
                    os.close(descriptor)
                return request, streams
            running[child] = connection
            connection.sendall(child.to_bytes(4, "little"))
            for descriptor in streams:
                os.close(descriptor)


def is_of_this_checkout(words: list[str]) -> bool:
    """True for a front door of this checkout, and for the fork server that one of its suites starts."""
    if words[0] == "-c":
        return f"'sys_path': [{str(ROOT)!r}" in words[1]
    return Path(words[0]).resolve().parent.parent == ROOT


def forget_the_project() -> None:
    packages = {"core", "converters", "pretrain", "evaluate"}
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def run(request: dict[str, Any], streams: list[int]) -> None:
    """Runs the request's script, module or code as the interpreter would."""
    import torch

    os.setsid()
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 500) for descriptor in streams]  # beyond the numbers they get
    for descriptor in streams:
        os.close(descriptor)
    for target, descriptor in zip((0, 1, 2, *request["more"]), moved, strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False, buffering=1)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1, errors="backslashreplace")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    sys.executable, words = request["python"], request["words"]
    multiprocessing.set_executable(sys.executable)  # its fork servers, too, begin with everything imported
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    if not is_of_this_checkout(words):
        forget_the_project()
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[:1] = [os.getcwd(), *places]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path[:1] = ["", *places]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path[:1] = [os.path.dirname(os.path.realpath(words[0])), *places]
        runpy.run_path(words[0], run_name="__main__")


def status_of(request: dict[str, Any], streams: list[int]) -> int:
    """Exit status of the request, after its threads and exit functions; a full teardown would take seconds."""
    code: object = 0
    try:
        run(request, streams)
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return int(code or 0)


if __name__ == "__main__":
    os._exit(status_of(*serve(sys.argv[1])))
