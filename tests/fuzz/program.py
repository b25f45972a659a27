"""A generated model: the text of its classes, and how it becomes a module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reparamkit.testing import randomize
from tests.fuzz.statements import PRELUDE


@dataclass(frozen=True)
class ClassText:
    """A class.

    Attributes:
        name: of the class.
        header: parameters of its forward, after ``self``.
        init: statements that make its attributes.
        body: statements of its forward.
        returned: the expression it returns.
    """

    name: str
    header: str
    init: tuple[str, ...]
    body: tuple[str, ...]
    returned: str

    @property
    def text(self) -> str:
        """The class as Python."""
        lines = [f"class {self.name}(Base):", "    def __init__(self, flag=True, times=1, act=None):"]
        lines += ["        super().__init__(flag, times, act)", *(f"        {line}" for line in self.init)]
        lines += [f"    def forward(self, {self.header}):", *(f"        {line}" for line in self.body)]
        return "\n".join([*lines, f"        return {self.returned}", ""])


@dataclass(frozen=True)
class Program:
    """A model.

    Attributes:
        seed: it was drawn from, and its numbers are.
        nd: spatial axes of its input.
        classes: the last one is the model's.
    """

    seed: int
    nd: int
    classes: tuple[ClassText, ...]

    def build(self) -> nn.Module:
        """The model, in float64 and eval mode, with random numbers."""
        namespace = compiled(self.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            made: nn.Module = namespace["Model"]()
        return randomize(made, self.seed).double()

    @property
    def text(self) -> str:
        """The whole model as Python, without what all models share."""
        return "\n".join(c.text for c in self.classes)


def compiled(classes: Iterable[ClassText]) -> dict[str, Any]:
    """A namespace in which the classes are defined."""
    namespace: dict[str, Any] = {"__name__": "fuzzed"}
    exec("\n".join([PRELUDE, *(c.text for c in classes)]), namespace)
    return namespace
