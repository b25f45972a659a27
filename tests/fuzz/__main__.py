"""`python -m tests.fuzz --models 100000`: look at many generated models, and print what goes wrong, made small."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator

from tests.fuzz.look import look

CHUNK = 50


def looked(first: int, count: int, jobs: int) -> Iterator[tuple[Counter[str], str]]:
    """`look` for `count` seeds, in `jobs` processes."""
    seeds = range(first, first + count)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(look, seeds, chunksize=CHUNK)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for done, (seen, text) in enumerate(looked(options.first, options.models, options.jobs), 1):
        total += seen
        if text:
            print(text, flush=True)
        if done % 1000 == 0:
            print(f"{done}: {dict(total)}", flush=True)
    print(f"{options.models} seeds: {dict(total)}")
    return int(total["findings"] > 0)


if __name__ == "__main__":
    sys.exit(main())
