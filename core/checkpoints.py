"""Checkpoint files: training state (exact resume) and exported backbones (safetensors with a metadata header)."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones import Backbone, BackboneConfig, to_metadata
from core.config import from_dict
from core.coverage import build_and_load
from core.errors import UserError, first_line
from core.files.atomic_file import write_atomically
from core.untrusted.plain_values import to_plain
from core.untrusted.stand_ins import SAFE_GLOBALS, SafeGlobal, unlisted_globals, unlisted_outside_optimisers
from core.untrusted.zip_archives import find_fault, is_zip

TRAINING_FORMAT = "ssl-transfer/training-state/1"
BACKBONE_FORMAT = "ssl-transfer/backbone/2"
_WITHOUT_HEADER_DIGEST = "ssl-transfer/backbone/1"
GIVEN = "--mean and --std"
"""Source of a normalisation that the command line gives."""
EXPORTS = {"online": "backbone.safetensors", "target": "backbone_target.safetensors"}
_HEADER_DIGEST = "header_sha256"
_ABOUT_THE_FILE = ("format", "backbone", "sha256", _HEADER_DIGEST)
_STATE_NAME = re.compile(r"step_(\d{9})\.pt")


def read_tensors(path: Path, stand_ins: Sequence[SafeGlobal] = (), foreign: bool = False) -> Any:
    """Contents of a file of `torch.save`, on the CPU, without ever running code from the file.

    Bookkeeping of other projects comes as inert placeholders (core/untrusted/stand_ins.py), as do `stand_ins` and, in a
    `foreign` file, classes and functions of any name below its optimisers and schedulers. Raises `UserError` for a
    missing, damaged or non-checkpoint file, and for one that holds other objects than tensors and plain values. Every
    byte is checked against the file's checksums, where it has them (all that torch writes since version 1.6).
    """
    _refuse_special(path)
    try:
        if is_zip(path) and (fault := find_fault(path)):
            raise UserError(f"{path} is not a readable checkpoint ({fault})")
        with torch.serialization.safe_globals([*SAFE_GLOBALS, *stand_ins]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about what a file asks of it
            with torch.serialization.safe_globals(list(unlisted_globals(path) if foreign else ())):
                document = torch.load(path, map_location="cpu", weights_only=True)
        document = to_plain(document, str(path))
        if foreign and (name := unlisted_outside_optimisers(document)):
            raise UserError(_more_than_tensors(path, name))
        return document
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a checkpoint file") from None
    except pickle.UnpicklingError as error:
        # torch names the refused object in one of two sentences; the rest of its text is advice we don't follow.
        blocked = re.search(r"(?:nsupported GLOBAL|GLOBAL|nsupported class) ([\w.]+)", str(error))
        if blocked:
            raise UserError(_more_than_tensors(path, blocked.group(1))) from None
        raise UserError(
            f"{path} is not a readable checkpoint (its pickled part is damaged or not a checkpoint)"
        ) from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, IndexError,
            OSError, AssertionError, MemoryError, OverflowError, RecursionError, NotImplementedError, NameError,
            ImportError, struct.error) as error:  # fmt: skip
        # A truncated or foreign file can trip the reader anywhere.
        raise UserError(f"{path} is not a readable checkpoint ({first_line(error)})") from None


def _more_than_tensors(path: Path, name: str) -> str:
    return (
        f"{path} holds more than tensors and plain values ({name[:100]}) and such files are not executed; save its "
        f"state dict alone with torch.save and pass that"
    )


def save_training_state(folder: Path, step: int, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Writes `folder/step_NNNNNNNNN.pt` atomically and removes all but the newest `keep` states."""
    path = folder / f"step_{step:09d}.pt"
    for left_over in folder.glob(".step_*.partial"):  # of a process killed while writing
        left_over.unlink(missing_ok=True)
    document = {"format": TRAINING_FORMAT, "step": step, **state}
    write_atomically(path, lambda partial: torch.save(document, partial))
    for old in training_states(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def training_states(folder: Path) -> list[Path]:
    """The training states in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step_*.pt") if _STATE_NAME.fullmatch(path.name))


def load_training_state(path: Path) -> dict[str, Any]:
    """A state that `save_training_state` wrote; `UserError` for anything else."""
    state = read_tensors(path)
    if not is_training_state(state):
        raise UserError(f"{path} is not a training state of ssl-transfer")
    return state


def is_training_state(document: Any) -> bool:
    """True for a loaded document that is a training state of this project."""
    return isinstance(document, dict) and document.get("format") == TRAINING_FORMAT


def export_backbone(
    path: Path, model: nn.Module | Mapping[str, Tensor], config: BackboneConfig, facts: Mapping[str, Any]
) -> None:
    """Writes the backbone under timm's names, its config and `facts` (method, epoch, …) in the header."""
    from safetensors.torch import save_file

    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header = {
        "format": BACKBONE_FORMAT,
        "backbone": json.dumps(to_metadata(config)),
        "channel_order": "RGB",
        "sha256": tensors_digest(tensors),
        **{key: str(value) for key, value in facts.items()},
    }
    header[_HEADER_DIGEST] = _header_digest(header)
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=header))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header metadata of a safetensors file; `UserError` where it can't be read."""
    from safetensors import SafetensorError, safe_open

    _refuse_special(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    # Types that this torch lacks escape as whatever the look-up raises.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError,
            OverflowError) as error:  # fmt: skip
        raise UserError(f"{path} is not a readable safetensors file ({first_line(error)})") from None


def load_exported(path: Path) -> Backbone:
    """The backbone in a file of `export_backbone`, tensors and header checked against the digests in the header.

    Files of the first format have a digest of the tensors alone.
    """
    tensors, header = read_safetensors(path)
    if header.get("format") not in (BACKBONE_FORMAT, _WITHOUT_HEADER_DIGEST):
        raise UserError(f"{path} was not exported by ssl-transfer, or is damaged (no {BACKBONE_FORMAT} in its header)")
    if header["format"] == BACKBONE_FORMAT and header.get(_HEADER_DIGEST) != _header_digest(header):
        raise UserError(f"{path} is damaged: its header does not give the sha256 that it holds; export it again")
    if tensors_digest(tensors) != header.get("sha256"):
        raise UserError(f"{path} is damaged: its tensors do not give the sha256 in its header; export it again")
    try:
        settings = json.loads(header["backbone"])
    except (KeyError, ValueError, RecursionError):
        raise UserError(f"{path} is damaged: its header doesn't say which backbone it is; export it again") from None
    config = from_dict(BackboneConfig, settings, str(path))
    model, coverage = build_and_load(config, tensors, str(path))
    origin = {key: value for key, value in header.items() if key not in _ABOUT_THE_FILE}
    origin["coverage"] = coverage.summary()
    return Backbone(config, model, f"{path} (exported backbone)", origin)


def is_exported(header: Mapping[str, str]) -> bool:
    """True if the header was written by `export_backbone`, even if damaged."""
    return header.get("format", "").startswith("ssl-transfer/") or any(key in header for key in _ABOUT_THE_FILE[1:])


def _header_digest(header: Mapping[str, str]) -> str:
    rest = sorted((key, value) for key, value in header.items() if key != _HEADER_DIGEST)
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes: equal for equal weights, whatever file holds them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def backbone_digest(backbone: Backbone) -> str:
    """sha256 (hex) of a backbone: of its tensors, and of settings that replace what its file or project implies.

    Equal to `tensors_digest` of the weights unless position embeddings are resized by another rule than timm's or the
    command line gives the normalisation.
    """
    config = backbone.config
    digest = tensors_digest(backbone.model.state_dict())
    given: list[Any] = [] if config.pos_resize == "timm" else [config.pos_resize]
    if backbone.origin.get("normalisation") == GIVEN:
        given += [config.mean, config.std]
    return hashlib.sha256(f"{digest} {json.dumps(given)}".encode()).hexdigest() if given else digest


def _refuse_special(path: Path) -> None:
    """Raises `UserError` for a pipe or a device, from which reading may never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is not a regular file; copy the checkpoint to one")
