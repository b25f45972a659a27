"""What an exception means to a shell.

| code | meaning                                             |
|------|-----------------------------------------------------|
| 0    | done                                                |
| 1    | verification failed                                 |
| 2    | wrong usage, recipe, model or checkpoint            |
| 3    | nothing matched: no merge was made                  |
| 4    | something was refused, and --strict was given       |
| 5    | took longer than --timeout                          |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from reparamkit.cli import deadline
from reparamkit.cli.screen import complain
from reparamkit.errors import ReparamError, VerificationError


class Exit(IntEnum):
    """Exit codes; see above."""

    OK = 0
    WRONG = 1
    USAGE = 2
    NOTHING = 3
    REFUSED = 4
    SLOW = deadline.CODE


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the exceptions that are meant for people into one line and an exit code."""
    try:
        yield
    except ReparamError as error:
        complain(str(error))
        raise typer.Exit(_code(error)) from error
    except KeyboardInterrupt as error:
        if deadline.expired():
            raise typer.Exit(Exit.SLOW) from error
        raise


def _code(error: ReparamError) -> Exit:
    if isinstance(error, VerificationError):
        return Exit.WRONG
    if error.code == "RK706":
        return Exit.NOTHING
    return Exit.USAGE
