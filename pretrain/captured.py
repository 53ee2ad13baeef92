"""Forward and backward passes of a step as one CUDA graph, which the host launches at once (`compute.cuda_graphs`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from core.distributed import Processes
from core.errors import UserError
from pretrain.method import Method

EAGER = 3
"""Steps before the capture, in which libraries choose their kernels and allocate what they keep."""


class CapturedPasses:
    """`Method.backward` of a method whose passes depend on its views alone.

    The first steps run as usual, on the stream of the capture. The next one is captured, and it and all later ones are
    replayed: views are copied into the tensors that the graph reads; losses, gradients and norm statistics are those
    that it writes. Momentum network, clipping and optimiser stay outside. The graph keeps the memory of one step.
    """

    def __init__(self, method: Method, processes: Processes) -> None:
        """Raises `UserError` where there is no GPU, or more than one process."""
        if processes.device.type != "cuda" or processes.world_size > 1:
            raise UserError(
                f"compute.cuda_graphs is for one process on a GPU, not {processes.world_size} on {processes.device}; "
                f"set it to false"
            )
        self._method = method
        self._stream = torch.cuda.Stream(processes.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps = 0
        self._views: dict[str, list[Tensor]] = {}
        self._losses: dict[str, Tensor] = {}
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []

    def __call__(self, views: Mapping[str, Sequence[Tensor]], *_: object) -> dict[str, Tensor]:
        """As `Method.backward`, of whose arguments only the views matter here; gradients must be None before.

        The returned losses are overwritten by the next step.
        """
        self._steps += 1
        if self._steps <= EAGER:
            return self._run_eagerly(views)
        if self._graph is None:
            self._capture(views)
        for name, of_type in views.items():
            for own, images in zip(self._views[name], of_type, strict=True):
                assert own.shape == images.shape, f"views of {own.shape} were captured, not of {images.shape}"
                own.copy_(images)
        assert self._graph is not None
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._losses

    def _run_eagerly(self, views: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._method.backward(views)
        current.wait_stream(self._stream)
        return losses

    def _capture(self, views: Mapping[str, Sequence[Tensor]]) -> None:
        """Records the passes without computing them."""
        parameters = list(self._method.online.parameters())
        assert all(parameter.grad is None for parameter in parameters)
        self._views = {name: [images.clone() for images in of_type] for name, of_type in views.items()}
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that pins batches, may call CUDA meanwhile.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._losses = self._method.backward(self._views)
        self._gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
