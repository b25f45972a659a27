"""Writes programs: models as the text of their classes.

Every statement is run as soon as it is written, and dropped when it raises or its values grow out of hand. So there are
no books to keep about shapes: what a value is, is looked up.
"""

from __future__ import annotations

import random
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit.testing import randomize
from tests.fuzz import layers
from tests.fuzz.program import ClassText, Program, compiled
from tests.fuzz.statements import HEADERS, RETURNS, STATEMENTS, WEIGHTS

CHANNELS = 4
SIZES = ((7, 8, 9), (9, 10, 7))
LARGEST = 1e3
_WIDE = 6
_HOLE = re.compile(r"<(\w+)>")
_AFTER = (
    "self.<m>.register_forward_hook(lambda m, a, out: None)",
    "self.<m>.register_forward_hook(lambda m, a, out: out * 2)",
    "self.<m>.register_forward_pre_hook(lambda m, a: (a[0] * 2,))",
    "self.<m>.register_full_backward_hook(lambda m, a, b: None)",
    "self.<m>.weight.requires_grad_(False)",
    "self.<m>.weight = self.<n>.weight",
    "self.<m> = self.<n>",
    "torch.nn.utils.parametrizations.weight_norm(self.<m>)",
    "self.register_buffer('spare', self.<m>.weight, persistent=False)",
    "self.forward = self.forward",
)


class Dropped(Exception):
    """A statement cannot be written here."""


@dataclass
class Writer:
    """Writes one class, running it as it goes.

    Attributes:
        draw: where its choices come from.
        nd: spatial axes.
        namespace: of the program; its classes are in there.
        blocks: names of the classes that may be used.
    """

    draw: random.Random
    nd: int
    namespace: dict[str, Any]
    blocks: tuple[str, ...]
    init: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    live: dict[str, Any] = field(default_factory=dict)
    made: int = 0

    def write(self, name: str, length: int, shape: tuple[int, ...]) -> ClassText:
        """A class with about `length` statements, for inputs of `shape`."""
        header = self.draw.choice(HEADERS)
        generator = torch.Generator().manual_seed(self.draw.randrange(2**31))
        self.live = {"v0": torch.randn(shape, generator=generator, dtype=torch.float64), "self": self._instance()}
        self.live |= {n: v for n, v in (("extra", None), ("scale", 1.0)) if n in header}
        for _ in range(3 * length):
            if len(self.body) < length:
                self.statement()
        returned = self._return()
        after = [self._after() for _ in range(self.draw.choice([0, 0, 0, 0, 1, 2]))]
        return ClassText(name, header, (*self.init, *after), tuple(self.body), returned)

    def statement(self) -> None:
        """One more statement, if it runs."""
        kind = self.draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        template = self.draw.choice(STATEMENTS[kind])
        kept = len(self.init), self.made
        try:
            text = self.filled(template)
            self._run(text)
            self._bounded()
        except Exception:  # whatever a statement raises, it does not fit here
            del self.init[kept[0] :]
            return
        self.body.append(text)

    def filled(self, template: str) -> str:
        """The template with a choice for each hole."""
        holes: dict[str, str] = {}
        return _HOLE.sub(lambda found: self._hole(found[1], holes), template)

    def _hole(self, hole: str, holes: dict[str, str]) -> str:
        if hole in ("x", "y", "t", "new", "new2", "p", "s", "b", "f", "list", "dict", "convp") and hole in holes:
            return holes[hole]
        if hole != "x" and "x" not in holes:
            holes["x"] = self._value()
        made = getattr(self, f"_{hole}", None)
        holes[hole] = self._layer(hole, holes) if made is None else made(holes)
        return holes[hole]

    def _value(self) -> str:
        images = [n for n, v in self.live.items() if isinstance(v, Tensor) and v.ndim == self.nd + 2]
        if not images:
            raise Dropped
        return self.draw.choice([images[-1], images[-1], *images])

    def _x(self, holes: dict[str, str]) -> str:
        return self._value()

    def _y(self, holes: dict[str, str]) -> str:
        shape = self.live[holes["x"]].shape
        return self.draw.choice([n for n, v in self.live.items() if isinstance(v, Tensor) and v.shape == shape])

    def _t(self, holes: dict[str, str]) -> str:
        return self.draw.choice([n for n, v in self.live.items() if isinstance(v, Tensor)])

    def _new(self, holes: dict[str, str]) -> str:
        self.made += 1
        return f"v{self.made}"

    _new2 = _new

    def _channels(self, holes: dict[str, str]) -> int:
        return int(self.live[holes["x"]].shape[1])

    def _c(self, holes: dict[str, str]) -> str:
        return str(self._channels(holes))

    def _nd(self, holes: dict[str, str]) -> str:
        return str(self.nd)

    def _ones(self, holes: dict[str, str]) -> str:
        return ", 1" * self.nd

    def _nones(self, holes: dict[str, str]) -> str:
        return ", None" * self.nd

    def _nones_tail(self, holes: dict[str, str]) -> str:
        return f"[:, :{self._nones(holes)}]"

    def _axes(self, holes: dict[str, str]) -> str:
        return str(tuple(range(2, self.nd + 2)))

    def _k(self, holes: dict[str, str]) -> str:
        return self.draw.choice(["0.5", "-1.5", "2", "1", "0.25"])

    def _p(self, holes: dict[str, str]) -> str:
        return self._attribute(f"nn.Parameter(torch.ones({self._channels(holes)}))")

    def _s(self, holes: dict[str, str]) -> str:
        return self._attribute("nn.Parameter(torch.tensor(0.5))")

    def _b(self, holes: dict[str, str]) -> str:
        return self._attribute(f"torch.linspace(-1, 1, {self._channels(holes)})", "register_buffer")

    def _f(self, holes: dict[str, str]) -> str:
        return self._attribute(self._k(holes))

    def _keepname(self, holes: dict[str, str]) -> str:
        return self._layer("keep", holes).removeprefix("self.")

    def _list(self, holes: dict[str, str]) -> str:
        return self._attribute(f"nn.ModuleList([{', '.join(self._several(holes))}])")

    def _dict(self, holes: dict[str, str]) -> str:
        made = (f'"{n}": {m}' for n, m in zip("abc", self._several(holes), strict=False))
        return self._attribute(f"nn.ModuleDict({{{', '.join(made)}}})")

    def _several(self, holes: dict[str, str]) -> list[str]:
        count = self.draw.choice([1, 2, 2, 3])
        return [layers.keeping(self.draw, self.nd, self._channels(holes)) for _ in range(count)]

    def _unregistered(self, holes: dict[str, str]) -> str:
        return self._attribute(f"[{self._layer('keep', holes)}]")

    def _alias(self, holes: dict[str, str]) -> str:
        return self._attribute(self._layer("keep", holes))

    def _again(self, holes: dict[str, str]) -> str:
        named = [n for n, m in self.live["self"].named_modules() if n and "." not in n]
        if not named:
            raise Dropped
        return f"self.{self.draw.choice(named)}"

    def _layer(self, hole: str, holes: dict[str, str]) -> str:
        channels = self._channels(holes)
        if hole == "block":
            if not self.blocks:
                raise Dropped
            options = self.draw.choice(["", "", "flag=False", "times=2", "False, 0", "act=", "act=", "act="])
            options += self.draw.choice(layers.ACTS) if options == "act=" else ""
            return self._attribute(f"{self.draw.choice(self.blocks)}({options})")
        if hole == "convp":
            return self._attribute(f"nn.Conv{self.nd}d({channels}, {channels}, 3, padding=1)")
        if hole == "linear":
            return self._attribute(f"nn.Linear({channels}, {channels})")
        if hole in ("conv", "widen"):
            return self._attribute(layers.conv(self.draw, self.nd, channels, False, _WIDE if hole == "widen" else 0))
        if hole == "narrow":
            return self._attribute(layers.conv(self.draw, self.nd, _WIDE, False, self.draw.choice([4, 6, 8])))
        kinds = {
            "norm": layers.norm,
            "keep": layers.keeping,
            "layer": layers.changing,
            "transposed": layers.transposed,
        }
        return self._attribute(kinds[hole](self.draw, self.nd, channels))

    def _attribute(self, value: str, how: str = "") -> str:
        self.made += 1
        name = f"a{self.made}"
        text = f"self.{how}('{name}', {value})" if how else f"self.{name} = {value}"
        with torch.random.fork_rng(devices=[]):
            exec(text, self.namespace, self.live)
        made = getattr(self.live["self"], name)
        if isinstance(made, nn.Module):
            randomize(made, self.draw.randrange(1000)).double()
        elif isinstance(made, Tensor):
            made.data = made.data.double()
        self.init.append(text)
        return f"self.{name}"

    def _instance(self) -> nn.Module:
        made: nn.Module = self.namespace["Base"]()
        return made.eval()

    def _run(self, text: str) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(text, self.namespace, self.live)

    def _bounded(self) -> None:
        for value in self.live.values():
            if isinstance(value, Tensor) and not float(value.detach().abs().max()) < LARGEST:
                raise Dropped

    def _return(self) -> str:
        while True:
            text = self.filled(self.draw.choice(RETURNS))
            try:
                self._run(f"_ = {text}")
            except Exception:
                continue
            return text

    def _after(self) -> str:
        named = [n for n, m in self.live["self"].named_modules() if n and "." not in n]
        text = self.draw.choice(_AFTER)
        return text.replace("<m>", self.draw.choice(named or ["a1"])).replace("<n>", self.draw.choice(named or ["a1"]))


def program(seed: int) -> Program:
    """The program of a seed."""
    draw = random.Random(seed)
    nd = draw.choice([1, 2, 2, 2, 2, 3])
    classes: list[ClassText] = []
    for name in [*(f"Block{i}" for i in range(draw.choice([0, 1, 1, 2]))), "Model"]:
        namespace = compiled(classes)
        writer = Writer(draw, nd, namespace, tuple(c.name for c in classes))
        length = draw.randint(2, 10 if name == "Model" else 6)
        classes.append(writer.write(name, length, (2, CHANNELS, *SIZES[0][:nd])))
    return Program(seed, nd, tuple(classes))
