"""The smallest reparamkit plugin: a layer, and the rule that says what it is."""

from __future__ import annotations

import reparamkit
from reparamkit_hello.layer import ChannelGain

__all__ = ["ChannelGain", "lift_channel_gain", "reparamkit_rules"]


@reparamkit.lifts(ChannelGain, rule="hello/channel_gain")
def lift_channel_gain(module: ChannelGain, context: object) -> reparamkit.Scale:
    """``y = (1 + gain) x`` for each channel."""
    return reparamkit.Scale(1 + module.gain.detach().double())


@reparamkit.hookimpl
def reparamkit_rules() -> list[reparamkit.Lift]:
    """The rules of this plugin."""
    return [lift_channel_gain]
