"""ambient: what a forward asks that is not among its arguments: chance, and the modes torch is in.

A trace would hold the one answer it got. So random generators stop it, whoever owns them, and a question about a mode
is answered both ways, like any other question about the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# By name: numpy need not be installed. All methods of these draw, or set what will be drawn.
_GENERATORS = frozenset(
    {
        ("random", "Random"),
        ("random", "SystemRandom"),
        ("numpy.random.mtrand", "RandomState"),
        ("numpy.random._generator", "Generator"),
    }
)
# Modules of others that are looked through, since these questions are asked, or sizes reckoned with, through them.
LOOKED_THROUGH = frozenset({"torch", "torch.random", "numpy", "numpy.random", "random", "math"})
# By name too: torch.compile wraps some of them when it is first imported.
_SEEDS = frozenset({"manual_seed", "seed", "set_rng_state", "fork_rng"})
QUESTIONS: dict[Any, str] = {
    torch.is_grad_enabled: "gradients are recorded",
    torch.is_inference_mode_enabled: "inference mode is on",
    torch.is_autocast_enabled: "autocast is on",
    torch.is_autocast_cpu_enabled: "autocast is on",
}


SWITCHES: tuple[type, ...] = (torch.enable_grad, torch.set_grad_enabled)


def told(switch: Any, tell: Callable[[int], None]) -> type:
    """A switch of gradients that says when it is set to record them, and when no longer.

    A forward is traced while gradients are recorded, so that nothing else shows it; its caller may record none.

    Args:
        switch: one of `SWITCHES`.
        tell: is called with 1, and with -1 when the context ends.
    """
    at_once = switch is torch.set_grad_enabled

    class Told(switch):  # type: ignore[misc]
        def __init__(self, *mode: Any, **named: Any) -> None:
            super().__init__(*mode, **named)
            self.records = not at_once or bool((*mode, *named.values())[0])
            tell(int(at_once and self.records))

        def __enter__(self) -> None:
            super().__enter__()
            tell(int(not at_once))

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            tell(-int(self.records))

    return Told


def is_generator(value: Any) -> bool:
    """Whether `value` makes random numbers."""
    kind = type(value)
    return (kind.__module__, kind.__qualname__) in _GENERATORS


def seeds(function: Any) -> bool:
    """Whether a function of torch sets what will be drawn."""
    return function.__name__ in _SEEDS and function.__module__ == "torch.random"


class Chance:
    """Stands for a random generator: there is nothing one may ask it."""

    def __init__(self, stop: Any) -> None:
        self.__dict__["stop"] = stop

    def __getattr__(self, name: str) -> Any:
        raise self.__dict__["stop"](f"draws random numbers ({name})")


def ambient() -> tuple[tuple[bool, ...], tuple[bool, ...], int]:
    """Gradient modes, which change no number; autocast modes, which do; how many autocast contexts we are in."""
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return (
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        depth,
    )
