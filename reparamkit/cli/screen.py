"""Text on a terminal. Names of modules and files are foreign text: no markup in them counts, no control character."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

_ENDLESS = 10_000  # what is piped into a file keeps one line a fact


def clean(text: str) -> str:
    """`text` without what a terminal would obey; line breaks stay."""
    return "".join(c for c in text if c.isprintable() or c == "\n")


def plain(text: str, style: str = "") -> Text:
    """`text` to print as it is: `Text` reads no markup."""
    return Text(clean(text), style=style)


def say(text: str, style: str = "") -> None:
    """Print lines without wrapping them."""
    Console().print(plain(text, style), soft_wrap=True)


def complain(text: str) -> None:
    """Print to standard error."""
    Console(stderr=True).print(plain(f"reparamkit: {text}", "red"), soft_wrap=True)


def show(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table; the last column takes the room that is left, in a file as much as it needs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    *narrow, last = headings
    for heading in narrow:
        table.add_column(heading, no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    screen = Console()
    (screen if screen.is_terminal else Console(width=_ENDLESS)).print(table)
