"""Results in a file, one JSON object a line, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]


class Lines:
    """The results in a file; of two with the same key the last one counts.

    Args:
        path: the file; it need not be there.
        key: fields that tell results apart.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self.path, self.key = path, key
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = [json.loads(line) for line in text.splitlines()]
        self.known = {self._of(result): result for result in found}

    def __iter__(self) -> Iterator[Result]:
        return iter(self.known.values())

    def get(self, *key: Any) -> Result | None:
        """The result with these values of the key's fields."""
        return self.known.get(key)

    def add(self, result: Result) -> Result:
        """Write a result down at once, and hand it back."""
        self.known[self._of(result)] = result
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        return result

    def _of(self, result: Result) -> tuple[Any, ...]:
        return tuple(result.get(field) for field in self.key)
