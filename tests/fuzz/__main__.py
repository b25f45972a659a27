"""`python -m tests.fuzz --models 100000`: look at many generated models; resumes where it was stopped."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path

from tests.fuzz.campaign import Campaign


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--models", type=int, default=100_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("fuzz-output"), help="folder of findings.txt and done.jsonl")
    options = parser.parse_args()
    campaign = Campaign(options.out, options.first, options.models)
    for told in campaign.run(options.jobs):
        print(told, flush=True)
    print(campaign.summary)
    return int(campaign.seen["findings"] > 0)


if __name__ == "__main__":
    sys.exit(main())
