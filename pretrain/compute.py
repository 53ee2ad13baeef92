"""Config of the arithmetic of pre-training: precision, layout, kernels and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.compute.kernels import Tf32


@dataclass(frozen=True)
class ComputeConfig:
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks; fp16 scales the loss. Losses, norms in the optimiser and weights stay fp32."""
    channels_last: bool = True
    """Channels-last memory for convolutional networks: faster on GPUs and CPUs, same arithmetic. Networks with strided
    1×1 convolutions of fewer than 8 channels stay contiguous on CPUs (core/compute/memory_layout.py)."""
    compile: bool = False
    """Compile backbone and projector with torch.compile; needs a C++ compiler, and the first step of each view size
    then takes a minute or more."""
    sync_bn: bool = False
    """Share batch norm statistics among processes; a single process has plain batch norm either way."""
    tf32: Tf32 = "convolutions"
    """Operations that a GPU computes in TF32 (10 bits) in place of fp32. `all`: matrix products too, several times
    faster for ViTs in fp32; the blur of views is then exact to 5e-4."""
    tune_convolutions: bool = False
    """On a GPU, try cuDNN's kernels for each shape in the first steps and keep the fastest: which ones may differ from
    run to run, and so may the last bits."""
    cuda_graphs: bool = False
    """Replay forward and backward passes from a CUDA graph, for small batches whose kernels take longer to launch than
    to run; for one process on a GPU."""
    shard: Literal["none", "fsdp2"] = "none"
    """`fsdp2`: the blocks of a ViT and their optimiser state are spread over the processes of torchrun, in the
    online and the momentum network; for AdamW in fp32 or bf16. With `compile`, each block is compiled alone."""
    checkpointing: bool = False
    """Keep only the inputs of a ViT's blocks for the backward pass, which computes the rest again."""
    backward: Literal["per_view", "packed"] = "per_view"
    """`per_view`: one forward and backward pass per view, least memory, batch norm statistics of each view alone.
    `packed`: views of equal size pass together, fewer and larger kernels, batch norm statistics of all of them."""
