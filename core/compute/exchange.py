"""Exchange of gradients among processes, in buckets, while the last backward pass of a step is still running."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.distributed import in_group

BUCKET_BYTES = 25 * 2**20
"""Bytes of gradients that one all-reduce carries, as in torch's DistributedDataParallel."""


@dataclass
class _Bucket:
    """Gradients that travel together."""

    parameters: list[nn.Parameter] = field(default_factory=list)
    """Parameters of one dtype, the last of the network first."""
    missing: int = 0
    """Parameters whose gradient may still grow."""
    flat: Tensor | None = None
    """Gradients one after the other, while they travel."""
    work: dist.Work | None = None
    """The all-reduce."""


class GradientExchange:
    """Replaces the gradient of each parameter by its mean over ranks, once per step.

    A step has any number of backward passes, which add up their gradients. `expect` announces the last of them: buckets
    that it can't reach (the predictors of other views) leave at once, each of the others when its gradients are
    complete. They leave in the same order on all ranks, whatever their graphs; `finish` sends what is left, with zeros
    for parameters without a gradient, and waits. Between two processes the bits are those of
    `core.distributed.average_gradients`, with more processes those of another order of the sum. Alone, nothing happens.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        """`parameters` in the order of the network; those that need no gradient are left alone."""
        self._buckets: list[_Bucket] = []
        self._of: dict[nn.Parameter, _Bucket] = {}
        self._next = 0
        self._armed = False
        if in_group():
            self._fill([parameter for parameter in parameters if parameter.requires_grad], bucket_bytes)

    def __len__(self) -> int:
        """Number of buckets; 0 alone."""
        return len(self._buckets)

    @property
    def sent(self) -> int:
        """Number of buckets that have left in this step."""
        return self._next

    def expect(self, loss: Tensor) -> None:
        """To be called before the last backward pass of a step, which starts from `loss`."""
        if not self._buckets:
            return
        reached = _parameters_below(loss)
        for bucket in self._buckets:
            bucket.missing = sum(parameter in reached for parameter in bucket.parameters)
        self._armed = True
        self._send_complete()

    def finish(self) -> None:
        """To be called after the last backward pass: returns once all gradients are averaged."""
        self._armed = False
        for bucket in self._buckets[self._next :]:
            _send(bucket)
        for bucket in self._buckets:
            assert bucket.work is not None
            assert bucket.flat is not None
            bucket.work.wait()
            bucket.flat /= dist.get_world_size()
            gradients = [parameter.grad for parameter in bucket.parameters if parameter.grad is not None]
            parts = bucket.flat.split([gradient.numel() for gradient in gradients])
            averages = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
            torch._foreach_copy_(gradients, averages)
            bucket.flat = bucket.work = None
        self._next = 0

    def _fill(self, parameters: list[nn.Parameter], bucket_bytes: int) -> None:
        """Buckets in the order in which a backward pass completes them."""
        open_ones: dict[torch.dtype, tuple[_Bucket, int]] = {}
        for parameter in reversed(parameters):
            size = parameter.numel() * parameter.element_size()
            bucket, filled = open_ones.get(parameter.dtype, (None, 0))
            if bucket is None or filled + size > bucket_bytes:
                bucket, filled = _Bucket(), 0
                self._buckets.append(bucket)
            bucket.parameters.append(parameter)
            open_ones[parameter.dtype] = bucket, filled + size
            self._of[parameter] = bucket
            parameter.register_post_accumulate_grad_hook(self._completed)

    def _completed(self, parameter: Tensor) -> None:
        """Hook, called when a backward pass has added to the gradient of a parameter."""
        if self._armed:
            self._of[parameter].missing -= 1  # type: ignore[index]
            self._send_complete()

    def _send_complete(self) -> None:
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            _send(self._buckets[self._next])
            self._next += 1


def _send(bucket: _Bucket) -> None:
    for parameter in bucket.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    bucket.flat = torch.cat([p.grad.reshape(-1) for p in bucket.parameters if p.grad is not None])
    bucket.work = dist.all_reduce(bucket.flat, async_op=True)


def _parameters_below(loss: Tensor) -> set[Tensor]:
    """Leaves that a backward pass from `loss` reaches."""
    found: set[Tensor] = set()
    seen = set()
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of AccumulateGrad
        if leaf is not None:
            found.add(leaf)
        nodes += [below for below, _ in node.next_functions]
    return found
