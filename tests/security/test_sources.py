"""Nothing that runs or swallows what a file holds stands anywhere but where docs/security.md says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "converters", "evaluate", "pretrain", "benchmarks")
NEVER = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load",
    "cloudpickle.loads", "torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url", "joblib.load",
    "marshal.loads", "shelve.open", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.full_load_all",
    "shutil.unpack_archive", "runpy.run_path", "compile", "np.fromfile",
}  # fmt: skip
"""Calls that stand nowhere."""
RESTRICTED = {
    "pickle._Unpickler": {"converters/detectron2_file.py"},
    "torch.load": {"core/checkpoints.py"},
    "yaml.load": {"core/config.py"},
    "tarfile.extractall": {"converters/engines/detectron2_install.py"},
}
"""Calls that stand in the named files alone, each in the one form that the tests below ask for."""
OPTIONS = {"weights_only", "allow_pickle", "filter", "shell", "formats"}
"""Arguments that decide whether a call is guarded."""
OWN_PICTURES = {"core/data/scenes/photographs.py", "evaluate/probes/knn/tsne.py", "benchmarks/views.py"}
"""Files that open pictures of the installation, or of their own making."""
READS = (
    r"torch\.load\(|yaml\.(safe_)?load\(|np\.load\(|\.open_memmap\(|PIL\.Image\.open\(|tarfile\.open\(|zipfile\.ZipFile\("
    r"|gzip\.open\(|safe_open\(|ET\.(parse|fromstring)\(|json\.loads?\(|_Unpickler\(|subprocess\.|frombuffer\(|os\.pread\("
    r"|\.read_text\(|\.read_bytes\(|datasets, "
)
"""What reads bytes that may come from elsewhere."""


def _files() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def _name(function: ast.expr) -> str:
    """The function of a call as it is written, `torch.load`."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name | ast.Attribute):
        return f"{_name(function.value)}.{function.attr}"
    return ast.unparse(function)


def _calls(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.Call]]:
    for node in nodes:
        if isinstance(node, ast.Call):
            yield _name(node.func), node


def faults(name: str, text: str) -> list[str]:
    """What in a source file reads without a guard."""
    found = []
    nodes = [*ast.walk(ast.parse(text))]
    for function, call in _calls(nodes):
        options = {option.arg: ast.unparse(option.value) for option in call.keywords if option.arg in OPTIONS}
        last = function.rpartition(".")[2]
        if function in NEVER or function.removeprefix("numpy.") == "fromfile":
            found.append(f"{name}:{call.lineno} calls {function}")
        if function == "torch.load" and options.get("weights_only") != "True":
            found.append(f"{name}:{call.lineno} calls torch.load without weights_only=True")
        if function == "yaml.load" and [ast.unparse(one) for one in call.args][1:] != ["_Loader"]:
            found.append(f"{name}:{call.lineno} calls yaml.load with another loader")
        if function in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
            found.append(f"{name}:{call.lineno} lets np.load unpickle")
        if last == "extractall" and options.get("filter") != "'data'":
            found.append(f"{name}:{call.lineno} unpacks without a filter")
        if last == "extract" and "tar" in function:
            found.append(f"{name}:{call.lineno} unpacks a member")
        if options.get("shell", "False") != "False":
            found.append(f"{name}:{call.lineno} starts a shell")
        if function.endswith("Image.open") and "formats" not in options and name not in OWN_PICTURES:
            found.append(f"{name}:{call.lineno} opens images of any format")
        found += [
            f"{name}:{call.lineno} calls {restricted}, which belongs to {', '.join(places)}"
            for restricted, places in RESTRICTED.items()
            if (function == restricted or (last == "extractall" and restricted.endswith(last))) and name not in places
        ]
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            for base in map(ast.unparse, node.bases):
                if base in NEVER or (base in RESTRICTED and name not in RESTRICTED[base]):
                    found.append(f"{name}:{node.lineno} derives from {base}")
    return found


def test_nothing_reads_without_a_guard() -> None:
    assert len(_files()) > 100
    found = [fault for file in _files() for fault in faults(str(file.relative_to(ROOT)), file.read_text("utf-8"))]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=True)",  # not in this file
        "pickle.load(file)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path, allow_pickle=True)",
        "tar.extractall(path)",
        "tar.extractall(path, filter='data')",
        "subprocess.run('ls', shell=True)",
        "eval(text)",
        "os.system(text)",
        "PIL.Image.open(path)",
        "class A(pickle.Unpickler): pass",
    ],
)
def test_the_search_finds(line: str) -> None:
    assert faults("core/made_up.py", line)


def test_every_file_that_reads_is_in_the_list() -> None:
    listed = set(
        re.findall(
            r"`((?:core|converters|evaluate|pretrain)/[\w/]+\.py)`", (ROOT / "docs/security.md").read_text("utf-8")
        )
    )
    readers = {
        str(file.relative_to(ROOT))
        for file in _files()
        if not file.is_relative_to(ROOT / "benchmarks") and re.search(READS, file.read_text("utf-8"))
    }
    assert readers - listed == set(), "these read something and docs/security.md doesn't say how they are guarded"
    assert {name for name in listed if not (ROOT / name).is_file()} == set()


def test_every_test_that_the_list_names_is_there() -> None:
    text = (ROOT / "docs/security.md").read_text("utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name).is_file()} == set()
