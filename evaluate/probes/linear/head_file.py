"""head.safetensors: the best head of a linear probe with its standardisation, for use on other test sets."""

from __future__ import annotations

from safetensors.torch import save_file

from core.files.atomic_file import write_atomically
from evaluate.probes.base import Job
from evaluate.probes.features.standardise import Standardiser
from evaluate.probes.linear.head_grid import HeadGrid

FILE = "head.safetensors"


def save_head(job: Job, number: int, grid: HeadGrid, standardiser: Standardiser) -> None:
    """Writes head `number` of the grid next to result.json."""
    weight, bias = grid.head(number)
    start, end = job.inputs.slices[number // grid.per_input]
    mean, factor = (values[start:end] for values in standardiser.affine())
    tensors = {"weight": weight, "bias": bias, "mean": mean, "factor": factor}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "format": "ssl-transfer/linear-head/1",
        "input": job.inputs.names[number // grid.per_input],
        "protocol": job.protocol,
        "backbone_sha256": job.backbone_sha256,
    }
    write_atomically(job.folder / FILE, lambda partial: save_file(tensors, partial, metadata=header))
