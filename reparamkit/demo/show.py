"""The demo's output."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from reparamkit.cli.screen import say
from reparamkit.demo.measure import Measured


def heading(text: str) -> None:
    """Begin a step."""
    say(f"\n{text}", "bold")


def line(text: str) -> None:
    """One fact of a step."""
    say(f"   {text}")


def comparison(before: Measured, after: Measured) -> None:
    """Both networks side by side."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in ("", "train form", "deploy form", ""):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("test accuracy", f"{before.accuracy:.2%}", f"{after.accuracy:.2%}", "")
    for name, old, new in (
        ("convolutions", before.convs, after.convs),
        ("batch norms", before.norms, after.norms),
        ("parameters", before.parameters, after.parameters),
        ("peak of live activations, KiB", before.activations // 1024, after.activations // 1024),
    ):
        table.add_row(name, f"{old:,}", f"{new:,}", f"{new / old - 1:+.0%}")
    Console().print(table)
