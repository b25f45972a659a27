"""rig: a module that runs jobs on numbers of its own, so that any engine can run them.

Inputs of one size are one tensor. An "add" reads two results of its size where two are left, and an input otherwise:
an engine that folds a sum into the convolution in front of it does so here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.timing.job import Job

_CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class Rig(nn.Module):
    """Runs jobs.

    Attributes:
        jobs: what is run, sums last.
        inputs: what it is to be called with: ones, two of each size that is read.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__()
        self.jobs = sorted(jobs, key=lambda job: (job.kind == "add", repr(job)))
        sizes = list(dict.fromkeys((job.batch, job.channels, *job.size) for job in jobs))
        like = jobs[0]
        self._places = {size: 2 * place for place, size in enumerate(sizes)}
        self.inputs = tuple(_ones(size, like) for size in sizes for _ in range(2))
        for place, job in enumerate(self.jobs):
            shape = job.weight or (job.channels,)
            self.register_buffer(f"weight{place}", torch.ones(shape, dtype=job.dtype, device=job.device))
        self.eval()

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """The results that no sum has read."""
        results: list[Tensor] = []
        for place, job in enumerate(self.jobs):
            size = (job.batch, job.channels, *job.size)
            first, second = inputs[self._places[size] :][:2]
            if job.kind == "add":
                ready = [r for r in results if tuple(r.shape) == size][-2:]
                results = [r for r in results if all(r is not other for other in ready)]
                results.append(torch.add(*[*ready, first, second][:2]))
            else:
                results.append(_run(job, first, getattr(self, f"weight{place}")))
        return results


def _ones(size: tuple[int, ...], like: Job) -> Tensor:
    x = torch.ones(size, dtype=like.dtype, device=like.device)
    return x.contiguous(memory_format=torch.channels_last) if like.channels_last and x.ndim == 4 else x


def _run(job: Job, x: Tensor, weight: Tensor) -> Any:
    if job.kind == "scale":
        return F.batch_norm(x, torch.zeros_like(weight), weight, weight, weight)
    if job.kind == "transposed":
        return _TRANSPOSED[len(job.size)](x, weight, None, job.stride, 0, 0, job.groups, job.dilation)
    if not job.size:
        return F.linear(x, weight)
    pads = [max(pad) for pad in job.padding]
    return _CONVS[len(job.size)](x, weight, None, job.stride, pads, job.dilation, job.groups)
