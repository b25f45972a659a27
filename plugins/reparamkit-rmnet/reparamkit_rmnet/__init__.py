"""Residual connections around ReLU are removed: the input is reserved in channels of its own."""

from __future__ import annotations

from pathlib import Path

import reparamkit
from reparamkit_rmnet.remove import remove_residual

__all__ = ["remove_residual", "reparamkit_recipes", "reparamkit_rules"]


@reparamkit.hookimpl
def reparamkit_rules() -> list[reparamkit.Transform]:
    """The rule of this plugin."""
    return [reparamkit.Transform("rmnet/reserve_merge", remove_residual)]


@reparamkit.hookimpl
def reparamkit_recipes() -> list[Path]:
    """The folder with `rmnet:rmnet`."""
    return [Path(__file__).parent / "recipes"]
