"""Text on a terminal. Names of modules and files are foreign text: no markup in them counts, no control character."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

_quiet = False


def be_quiet(wanted: bool) -> None:
    """Whether `say`, `show` and `progress` are silent; errors and JSON are printed all the same."""
    global _quiet
    _quiet = wanted


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        Console(stderr=True).print(plain(f"reparamkit: {record.getMessage()}", "dim"), soft_wrap=True)


_log = _Log()


def log_to_screen(level: int) -> None:
    """Print what the library logs, from this level on, to standard error."""
    logger = logging.getLogger("reparamkit")
    logger.setLevel(level)
    if _log not in logger.handlers:
        logger.addHandler(_log)


def clean(text: str) -> str:
    """`text` without what a terminal would obey; line breaks stay."""
    return "".join(c for c in text if c.isprintable() or c == "\n")


def plain(text: str, style: str = "") -> Text:
    """`text` to print as it is: `Text` reads no markup."""
    return Text(clean(text), style=style)


def say(text: str, style: str = "") -> None:
    """Print lines without wrapping them."""
    if _quiet:
        return
    Console().print(plain(text, style), soft_wrap=True)


def complain(text: str, style: str = "red") -> None:
    """Print to standard error."""
    Console(stderr=True).print(plain(f"reparamkit: {text}", style), soft_wrap=True)


def note_random_weights(spec: str, weights: Path | None) -> None:
    """Say so, where numbers are written or compared that nobody trained."""
    from reparamkit.model_source import has_random_weights

    if not _quiet and has_random_weights(spec, weights):
        complain(f"no --weights: {spec} has the random numbers of an untrained model", style="yellow")


def show(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table: fitted to a terminal, otherwise one line a row, with no blanks behind it."""
    if _quiet:
        return
    screen = Console()
    if not screen.is_terminal:
        typer.echo("\n".join(_lines([list(headings), *map(list, rows)])))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    *narrow, last = headings
    for heading in narrow:
        table.add_column(heading, no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    screen.print(table)


def _lines(rows: list[list[str]]) -> list[str]:
    """Columns below each other, two blanks apart."""
    cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell + " " * (w - cell_len(cell)) for cell, w in zip(row, widths, strict=True)] for row in cells]
    return ["  ".join(row).rstrip() for row in padded]


@contextmanager
def progress() -> Iterator[None]:
    """A bar on standard error for the long work inside; only where somebody can see it move."""
    console = Console(stderr=True)
    if _quiet or not console.is_terminal:
        yield
        return
    from reparamkit.progress import listening

    with Progress(console=console, transient=True) as bar:
        tasks = {}

        def listener(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        with listening(listener):
            yield
