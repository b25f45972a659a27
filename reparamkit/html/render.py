"""Numbers and names into the page."""

from __future__ import annotations

import base64
import hashlib
import math
import platform
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reparamkit.catalogue import catalogue
from reparamkit.errors import MissingExtraError
from reparamkit.html.diagram import before_and_after, histogram
from reparamkit.html.ranges import ranges
from reparamkit.version import __version__

if TYPE_CHECKING:
    from reparamkit.bench.compare import Size
    from reparamkit.html.reported import Reported
    from reparamkit.report.merged import Merged

_KINDS = 24  # diagrams of that many kinds of block


def render(
    report: Reported, model: nn.Module, converted: nn.Module, *, sizes: tuple[Size, Size] | None = None, title: str = ""
) -> str:
    """The page.

    Args:
        report: of the conversion.
        model: the original, in eval mode.
        converted: what came of it.
        sizes: of both on one input (`reparamkit.bench.compare.size`), for multiply-accumulates and activations.
        title: what the model is called.

    Returns:
        HTML; every name in it is escaped, and its one script only sorts tables.

    Raises:
        MissingExtraError: RK921 when jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError:
        raise MissingExtraError("RK921", "jinja2: pip install 'reparamkit[report]'") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=_number, error=_error)
    folder = files("reparamkit.html")
    script = (folder / "sort.js").read_text(encoding="utf-8")
    page = environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8"))
    return page.render(
        title=title or type(model).__name__,
        report=report,
        summary=_summary(report, model, converted, sizes),
        kinds=_kinds(report),
        merged=sorted(report.merged, key=_gain, reverse=True),
        refusals=[(refusal, catalogue()[refusal.code]) for refusal in (*report.refused, *report.untraceable)],
        histogram=histogram([_power(m.error) for m in report.merged if m.error is not None]),
        ranges=ranges(report, model, converted),
        environment=_environment(),
        style=(folder / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _gain(merged: Merged) -> tuple[float, int]:
    return merged.macs_before - merged.macs_after, merged.params_before - merged.params_after


def _power(error: float) -> int:
    return -18 if error < 1e-18 else math.floor(math.log10(error))


def _summary(
    report: Reported, model: nn.Module, converted: nn.Module, sizes: tuple[Size, Size] | None
) -> list[tuple[str, str, str]]:
    """Name, before, after."""
    counts = [
        ("parameters", _parameters(model), _parameters(converted)),
        ("layers with parameters", _layers(model), _layers(converted)),
    ]
    if sizes is not None:
        before, after = sizes
        counts.append(("multiply-accumulates", before.macs, after.macs))
        counts.append(("peak activations, bytes", before.activations, after.activations))
    return [(name, _number(first), _number(second)) for name, first, second in counts]


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _layers(model: nn.Module) -> int:
    return sum(1 for m in model.modules() if not list(m.children()) and list(m.parameters()))


def _kinds(report: Reported) -> list[dict[str, Any]]:
    """Each kind of merge once: how often, where for example, and its diagram."""
    counts = Counter((m.graph, m.rules) for m in report.merged)
    first = {(m.graph, m.rules): m for m in reversed(report.merged)}
    return [
        {"merged": first[kind], "count": count, "diagram": before_and_after(first[kind])}
        for kind, count in counts.most_common(_KINDS)
    ]


def _environment() -> dict[str, str]:
    return {
        "reparamkit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def _error(value: float | None) -> str:
    return "not proven" if value is None else f"{value:.1e}"
