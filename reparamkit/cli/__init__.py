"""The command `reparamkit`: one file a command, torch imported only when a command runs.

app       the commands, put together
outcome   exit codes: what each exception means to a shell
deadline  a bound on the time of a command
screen    text on a terminal
"""

from __future__ import annotations

import sys
import warnings

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command; says what to install when its extra is missing."""
    try:
        from reparamkit.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        print(f"reparamkit: {error.name} is not installed: pip install 'reparamkit[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    warnings.formatwarning = _told
    app(prog_name="reparamkit")


def _told(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning in one line: where in the code it was given helps nobody who runs a command."""
    return f"{category.__name__}: {message}\n"
