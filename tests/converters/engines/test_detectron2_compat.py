"""converters/engines/detectron2_compat.py: each fix alone, applied where something is missing and only there."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from converters.engines import detectron2_compat
from converters.engines.detectron2_compat import ENV_VAR, install_hook, setup_environment
from tests.torchrun import python


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing that Detectron2 looks for is there, put back afterwards."""
    monkeypatch.setattr(detectron2_compat.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, "detectron2._C", ModuleType("before"))
    monkeypatch.setitem(sys.modules, "pkg_resources", ModuleType("before"))
    monkeypatch.setattr(PIL.Image, "LINEAR", None, raising=False)
    monkeypatch.delattr(PIL.Image, "LINEAR")
    for name in ("int", "float", "str"):
        monkeypatch.setattr(np, name, None, raising=False)
        monkeypatch.delattr(np, name)


def test_the_hook_is_announced_and_a_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_VAR, raising=False)
    install_hook()
    assert os.environ[ENV_VAR] == detectron2_compat.__file__
    monkeypatch.setenv(ENV_VAR, "their_hook")
    install_hook()
    assert os.environ[ENV_VAR] == "their_hook"


@pytest.mark.usefixtures("missing")
def test_an_operator_is_missed_when_used_and_not_before() -> None:
    setup_environment()
    operators: Any = sys.modules["detectron2._C"]
    with pytest.raises(NotImplementedError, match="deform_conv_forward"):
        _ = operators.deform_conv_forward
    assert not hasattr(operators, "__path__")


@pytest.mark.usefixtures("missing")
def test_pillows_linear_is_bilinear() -> None:
    setup_environment()
    assert PIL.Image.LINEAR == PIL.Image.Resampling.BILINEAR  # type: ignore[attr-defined]


@pytest.mark.usefixtures("missing")
def test_numpys_names_are_pythons_types() -> None:
    setup_environment()
    names: Any = np
    assert [getattr(names, kind.__name__) for kind in (int, float, str)] == [int, float, str]
    assert np.bool is np.bool_  # NumPy 2 has it, so it is left alone


def test_a_packages_file_is_found(monkeypatch: pytest.MonkeyPatch, missing: None) -> None:
    setup_environment()
    stand_in: Any = sys.modules["pkg_resources"]
    package = SimpleNamespace(submodule_search_locations=["/somewhere/package"])
    monkeypatch.setattr(detectron2_compat.importlib.util, "find_spec", lambda _name: package)
    assert stand_in.resource_filename("package", "configs/a.yaml") == "/somewhere/package/configs/a.yaml"


def test_existing_files_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectron2_compat.importlib.util, "find_spec", lambda _name: SimpleNamespace())
    own = {name: ModuleType(name) for name in ("detectron2._C", "pkg_resources")}
    for name, module in own.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(PIL.Image, "LINEAR", 99, raising=False)
    monkeypatch.setattr(np, "int", np.int64, raising=False)
    setup_environment()
    assert all(sys.modules[name] is module for name, module in own.items())
    assert PIL.Image.LINEAR == 99  # type: ignore[attr-defined]
    assert vars(np)["int"] is np.int64


def test_detectron2_calls_it_before_all_else() -> None:
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("needs Detectron2")
    code = """if True:  # in a process that may hold Detectron2, and the names that the hook has given the libraries
        import sys, numpy, PIL.Image
        for name in [name for name in sys.modules if name.partition(".")[0] in ("detectron2", "pkg_resources")]:
            del sys.modules[name]
        for library, name in ((numpy, "str"), (numpy, "int"), (numpy, "float"), (PIL.Image, "LINEAR")):
            vars(library).pop(name, None)
        from detectron2 import model_zoo
        import detectron2.modeling, detectron2.data.datasets
        config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
        print(numpy.str, PIL.Image.LINEAR, config.SOLVER.BASE_LR)"""
    done = python("-c", code, env={ENV_VAR: detectron2_compat.__file__})
    assert (done.returncode, done.stdout) == (0, "<class 'str'> 2 0.02\n"), done.stderr[-500:]
    without = python("-c", code, env={ENV_VAR: ""})
    assert without.returncode != 0, "the hook is not needed"
