"""What merging does to the range of weights.

A batch norm's scale goes into the kernel, channel by channel, and a branch adds to it: channels of very different size
may stand side by side afterwards. One INT8 scale for the whole kernel then leaves few steps for the small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from reparamkit.html.reported import Reported

GROWTH = 2.0  # from here on a warning
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Range:
    """One merged layer.

    Attributes:
        path: where it is.
        before: largest channel of the kernel over its median channel, before the merge.
        after: likewise, now.
        int8_before: relative error of the kernel in INT8 with one scale, before the merge.
        int8_after: likewise, now.
        int8_channels: likewise, now, with a scale for each channel.
    """

    path: str
    before: float
    after: float
    int8_before: float
    int8_after: float
    int8_channels: float

    @property
    def growth(self) -> float:
        """How much the range grew."""
        return self.after / self.before if self.before else float("inf")

    @property
    def warns(self) -> bool:
        """Whether INT8 with one scale a tensor suffers."""
        return self.growth > GROWTH and self.int8_after > self.int8_before


def ranges(report: Reported, model: nn.Module, converted: nn.Module) -> list[Range]:
    """The ranges of all merged layers, those that grew most first.

    Args:
        report: of the conversion.
        model: the original.
        converted: what came of it.
    """
    old, sources = model.state_dict(), _sources(report)
    found = []
    for merged in report.merged:
        module = _module(converted, merged.path)
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        axis = 1 if isinstance(module, _TRANSPOSED) else 0
        kernels = [old[key] for key in sources.get(f"{merged.path}.weight" if merged.path else "weight", ())]
        kernels = [k for k in kernels if isinstance(k, Tensor) and k.dim() == weight.dim()]
        if kernels:
            found.append(_range(merged.path, max(kernels, key=lambda k: k.numel()), weight, axis))
    return sorted(found, key=lambda r: -r.growth)


def _sources(report: Reported) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, into in report.key_map.items():
        for new in into:
            found.setdefault(new, []).append(key)
    return found


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:  # a later merge took it along
        return None


def _range(path: str, old: Tensor, new: Tensor, axis: int) -> Range:
    with torch.no_grad():
        before, after = (_channels(w, axis) for w in (old, new))
        return Range(
            path, _spread(before), _spread(after), _error(before, False), _error(after, False), _error(after, True)
        )


def _channels(weight: Tensor, axis: int) -> Tensor:
    return weight.detach().double().transpose(0, axis).flatten(1)


def _spread(channels: Tensor) -> float:
    largest = channels.abs().amax(1)
    median = float(largest.median())
    return float(largest.max()) / median if median else float("inf")


def _error(channels: Tensor, by_channel: bool) -> float:
    largest = channels.abs().amax(1, keepdim=True) if by_channel else channels.abs().max()
    step = (largest / 127).clamp_min(1e-300)
    norm = float(channels.norm())
    return float(((channels / step).round() * step - channels).norm()) / norm if norm else 0.0
