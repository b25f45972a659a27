"""Many seeds, in processes; what was done is written down as it is done, so that a run can be stopped and taken up."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.fuzz.look import look

CHUNK = 50


def looked(first: int, count: int) -> dict[str, Any]:
    """A line of ``done.jsonl``: what happened with `count` seeds."""
    seen: Counter[str] = Counter()
    findings = []
    for seed in range(first, first + count):
        found, text = look(seed)
        seen += found
        findings += [text] if text else []
    return {"first": first, "count": count, "seen": dict(seen), "findings": findings}


class Campaign:
    """A range of seeds and what is known about it.

    Args:
        folder: holds ``done.jsonl``, one line for each chunk of seeds, and ``findings.txt``; made if need be.
        first: the first seed.
        count: how many.
    """

    def __init__(self, folder: Path, first: int, count: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.done, self.findings = folder / "done.jsonl", folder / "findings.txt"
        self.chunks = [(at, min(CHUNK, first + count - at)) for at in range(first, first + count, CHUNK)]
        self.seen: Counter[str] = Counter()
        self._known: set[tuple[int, int]] = set()
        wanted = set(self.chunks)
        for line in _lines(self.done):
            chunk = line["first"], line["count"]
            if chunk in wanted and chunk not in self._known:
                self._known.add(chunk)
                self.seen += Counter(line["seen"])

    @property
    def summary(self) -> str:
        """How many seeds were looked at and what happened."""
        return f"{sum(count for _, count in self._known)} seeds: {dict(self.seen)}"

    def run(self, jobs: int) -> Iterator[str]:
        """Look at all that is left; gives each finding, and now and then the summary."""
        left = [chunk for chunk in self.chunks if chunk not in self._known]
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(looked, *chunk) for chunk in left]
            for at, future in enumerate(as_completed(futures), 1):
                yield from self._noted(future.result())
                if at % 20 == 0:
                    yield self.summary

    def _noted(self, line: dict[str, Any]) -> list[str]:
        self._known.add((line["first"], line["count"]))
        self.seen += Counter(line["seen"])
        with self.findings.open("a", encoding="utf-8") as file:
            file.writelines(f"{text}\n" for text in line["findings"])
        with self.done.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(line)}\n")  # the line before may have been cut off
        return list(line["findings"])


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:  # the last line of a run that was killed
            continue
