"""Checkpoints: weights of converted models in files, and back into models.

    save ──► deploy.safetensors + recipe.yaml ──► load(fresh model) ──► deploy model
    training weights ──► convert_state_dict ──► deploy weights

file         tensors in and out of files
names        keys as upstream has them
provenance   which recipe and versions made them
store        a converted model to a file
restore      models from files
"""

from __future__ import annotations

from reparamkit.checkpoint.restore import convert_state_dict, load, load_weights
from reparamkit.checkpoint.store import checked_output, save, upstream_state_dict

__all__ = ["checked_output", "convert_state_dict", "load", "load_weights", "save", "upstream_state_dict"]
