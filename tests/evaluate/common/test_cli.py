"""evaluate/common/cli.py: which backbone --ckpt and --init name together."""

from __future__ import annotations

import sys

import pytest

from core.errors import UserError
from evaluate.common.cli import evaluation_parser, parse


def ckpt(monkeypatch: pytest.MonkeyPatch, *given: str) -> str:
    monkeypatch.setattr(sys, "argv", ["coco.py", *given])
    named: str = parse(evaluation_parser("x", "y", "z")).ckpt
    return named


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--ckpt", "runs/a"], "runs/a"),
        (["--ckpt", "runs/a", "--init", "random"], "random:runs/a"),
        (["--ckpt", "random:runs/a", "--init", "random"], "random:runs/a"),
        (["--ckpt", "timm:resnet50.tv_in1k", "--init", "random"], "random:timm:resnet50.tv_in1k"),
        (["--init", "timm:resnet50"], "timm:resnet50"),
        (["--init", "timm:resnet50.tv_in1k"], "timm:resnet50.tv_in1k"),
    ],
)
def test_what_is_opened(monkeypatch: pytest.MonkeyPatch, given: list[str], named: str) -> None:
    assert ckpt(monkeypatch, *given) == named


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"--ckpt .*--init timm:NAME$"),
        (["--init", "random"], r"--init random.*--ckpt"),
        (["--ckpt", "runs/a", "--init", "timm:resnet18"], "--init timm:resnet18.*--ckpt runs/a"),
        (["--ckpt", "runs/a", "--init", "zeros"], "--init.*random.*timm:NAME.*'zeros'"),
    ],
)
def test_what_contradicts_itself_or_names_nothing(
    monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ckpt(monkeypatch, *given)
