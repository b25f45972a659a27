"""Convolutions become fully-connected layers at a fixed size."""

from __future__ import annotations

from pathlib import Path

import reparamkit
from reparamkit_repmlp.inject import inject_locality
from reparamkit_repmlp.layer import FixedSizeConv

__all__ = ["FixedSizeConv", "inject_locality", "reparamkit_recipes", "reparamkit_rules"]


@reparamkit.hookimpl
def reparamkit_rules() -> list[reparamkit.Transform]:
    """The rule of this plugin."""
    return [reparamkit.Transform("repmlp/conv_to_fc", inject_locality)]


@reparamkit.hookimpl
def reparamkit_recipes() -> list[Path]:
    """The folder with `repmlp:repmlp`."""
    return [Path(__file__).parent / "recipes"]
