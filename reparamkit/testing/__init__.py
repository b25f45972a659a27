"""For the tests of plugins, recipes and blocks; needs nothing but torch.

check_rule            a rule says what its layer computes, and merges it
assert_collapsible    a block becomes as few layers as promised, and computes the same
randomize_batch_norm  statistics that a fold cannot forget unnoticed
random_model          branches nobody thought of
"""

from __future__ import annotations

from reparamkit.testing.check import assert_collapsible, check_rule, difference
from reparamkit.testing.numbers import randomize, randomize_batch_norm
from reparamkit.testing.random_model import random_model

__all__ = [
    "assert_collapsible",
    "check_rule",
    "difference",
    "random_model",
    "randomize",
    "randomize_batch_norm",
]
