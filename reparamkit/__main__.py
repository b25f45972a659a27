"""`python -m reparamkit` is the command `reparamkit`."""

from __future__ import annotations

from reparamkit.cli import main

if __name__ == "__main__":
    main()
