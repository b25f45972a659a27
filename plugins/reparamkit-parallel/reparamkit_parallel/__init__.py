"""Layers that read one input become one wider layer and a split."""

from __future__ import annotations

from pathlib import Path

import reparamkit
from reparamkit_parallel.merge import merge_parallel

__all__ = ["merge_parallel", "reparamkit_recipes", "reparamkit_rules"]


@reparamkit.hookimpl
def reparamkit_rules() -> list[reparamkit.Transform]:
    """The rule of this plugin."""
    return [reparamkit.Transform("parallel/merge", merge_parallel)]


@reparamkit.hookimpl
def reparamkit_recipes() -> list[Path]:
    """The folder with `parallel:parallel`."""
    return [Path(__file__).parent / "recipes"]
