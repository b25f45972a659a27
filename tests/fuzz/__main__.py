"""`python -m tests.fuzz --models 100000`: look at many generated models, and print what goes wrong, made small."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator

import torch

from tests.fuzz.oracle import Finding, Unfit, check
from tests.fuzz.shrink import finding, shrunk
from tests.fuzz.writer import program

CHUNK = 50


def look(seed: int) -> tuple[Counter[str], str]:
    """What happened with the program of a seed, and a report when something went wrong."""
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    made = program(seed)
    try:
        check(made, seen)
    except Unfit:
        seen["unfit"] += 1
    except Finding as error:
        seen["findings"] += 1
        small = shrunk(made, error.kind)
        return seen, f"== seed {seed}: {finding(small) or error}\n{small.text}"
    return seen, ""


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
