"""catalogue: what each code means and what can be done about it. The words stand in `catalogue.yaml`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from reparamkit.errors import CODES


@dataclass(frozen=True)
class Entry:
    """One code.

    Attributes:
        code: as in ``RK312``.
        title: in a few words.
        means: what is so and why it matters; empty where nothing is written.
        do: what makes it go away.
    """

    code: str
    title: str
    means: str = ""
    do: str = ""

    def __str__(self) -> str:
        return "\n\n".join(part for part in (f"{self.code} {self.title}", self.means, self.do) if part)


@cache
def catalogue() -> dict[str, Entry]:
    """All codes, in order."""
    text = (files("reparamkit") / "catalogue.yaml").read_text(encoding="utf-8")
    words = yaml.safe_load(text)
    return {code: Entry(code, title, **words.get(code, {})) for code, title in sorted(CODES.items())}


def entry(code: str) -> Entry:
    """What `code` means; ``rk312`` and ``312`` will do.

    Raises:
        KeyError: there is no such code; the message names the closest ones.
    """
    name = code.upper()
    name = name if name.startswith("RK") else f"RK{name}"
    if name not in catalogue():
        close = [known for known in catalogue() if known.startswith(name)]
        close = close or difflib.get_close_matches(name, catalogue(), n=3, cutoff=0.5) or list(catalogue())
        raise KeyError(f"no code {code!r}; there is {', '.join(close)}")
    return catalogue()[name]
