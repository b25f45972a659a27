"""`python -m tests.mutants --each 5`: small changes of the algebra and the rules, some of every file; a row a file.

A file of operators/, merge.py and rules/ has hundreds of possible changes (mutmut's), and a change that no test notices
costs all tests that run the function. So a sample is taken: `--each` of every file, always the same ones for a seed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

FIRST = "reparamkit.operators.weight.x\u01c1Weight\u01c1__repr____mutmut_1"  # costs nothing; makes all the others
OUTCOMES = {0: "unnoticed", 33: "not run", 36: "timeout", 24: "timeout", 152: "timeout", 255: "timeout", -24: "timeout"}


def known() -> dict[str, dict[str, int | None]]:
    """Exit code of the tests for each change, by file."""
    found = {}
    for meta in sorted(Path("mutants/reparamkit").rglob("*.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        if codes:
            found[str(meta.relative_to("mutants/reparamkit")).removesuffix(".py.meta")] = codes
    return found


def table(sample: dict[str, list[str]]) -> str:
    """What became of the changes in the sample; exit codes other than those above are tests that failed."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    left = []
    for file, codes in known().items():
        for name in sample.get(file, ()):
            code = codes[name]
            outcome = "not tried" if code is None else OUTCOMES.get(code, "noticed")
            rows[file][outcome] += 1
            left += [f"{outcome}: {name}"] if outcome in ("unnoticed", "not run") else []
    lines = [f"{file:24} {dict(rows[file])}" for file in rows]
    return "\n".join([*lines, f"{'all':24} {dict(sum(rows.values(), Counter()))}", *left])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--each", type=int, default=5, help="changes of every file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default="2")
    options = parser.parse_args()
    mutmut = [sys.executable, "-m", "mutmut", "run", "--max-children", options.jobs]
    if not Path("mutants/mutmut-stats.json").exists():
        subprocess.run([*mutmut, FIRST], check=True, stdout=subprocess.DEVNULL)
    draw = random.Random(options.seed)
    sample = {f: draw.sample(sorted(c), min(options.each, len(c))) for f, c in known().items()}
    names = [n for f, c in known().items() for n in sample[f] if c[n] is None]
    if names:
        subprocess.run([*mutmut, *names], check=False, stdout=subprocess.DEVNULL)
    print(table(sample))


if __name__ == "__main__":
    main()
