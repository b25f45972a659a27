"""Where a conversion spends its time: a flame graph, the stages, and the functions that take most.

Stacks are sampled while a model is converted in place, again and again; what torch does counts for the function of
reparamkit that called it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections import Counter
from pathlib import Path

import torch
from deployed.models import MODELS, build
from flames.draw import flame
from flames.sample import Stack, sampled

import reparamkit

PACKAGE = Path(reparamkit.__file__).parent
STAGES = {
    "survey and trace": "survey/look.py survey",
    "lift": "lift/lifter.py flows",
    "decide, host": "planning.py _plan_flow",
    "name and write forwards": "edits/naming.py name_and_write",
    "lower and verify": "prove/merge.py prove",
    "splice": "edits/splice.py splice",
}


def conversions(name: str, seconds: float) -> tuple[Counter[Stack], float, int]:
    """Stacks of as many conversions as take so many seconds, the seconds of one, and how many they were."""
    model = build(name)
    reparamkit.apply(copy.deepcopy(model), inplace=True)  # caches, imports
    stacks: Counter[Stack] = Counter()
    used, runs = 0.0, 0
    while used < seconds:
        mine = copy.deepcopy(model)
        gc.collect()
        start = time.process_time()
        stacks += sampled(lambda m=mine: reparamkit.apply(m, inplace=True), PACKAGE)
        used, runs = used + time.process_time() - start, runs + 1
    return stacks, used / runs, runs


def shares(stacks: Counter[Stack]) -> list[tuple[str, float]]:
    """The share of each stage, and of what belongs to none."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        stage = next((name for name, frame in reversed(STAGES.items()) if frame in stack), "the rest")
        found[stage] += count
    total = sum(found.values())
    return [(name, found[name] / total) for name in (*STAGES, "the rest") if found[name]]


def hot_spots(stacks: Counter[Stack]) -> list[tuple[str, float]]:
    """Functions by the time they and the libraries under them take, without what they call in reparamkit."""
    own: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[next(name for name in reversed(stack) if " " in name)] += count
    total = sum(own.values())
    return [(name, count / total) for name, count in own.most_common(3)]


def section(name: str, stacks: Counter[Stack], seconds: float, runs: int, figure: str) -> str:
    """What the page says."""
    stages = [f"| {stage} | {share:.0%} | {share * seconds * 1e3:.0f} |" for stage, share in shares(stacks)]
    spots = [f"{i}. `{spot}`: {share:.0%}" for i, (spot, share) in enumerate(hot_spots(stacks), 1)]
    return "\n".join(
        [
            "## Where a conversion spends its time",
            "",
            f"Written by `python benchmarks/flame.py`: {name} in place, {seconds * 1e3:.0f} ms of CPU time,",
            f"{sum(stacks.values()):,} samples of {runs} conversions. Below each other: who calls whom; as wide as its",
            "share of the time; grey: other libraries. Opened alone, it shows figures under the pointer.",
            "",
            f"[![Flame graph of a conversion]({figure})]({figure})",
            "",
            "| stage | share | ms |",
            "|---|---|---|",
            *stages,
            "",
            "The functions that take most by themselves, with what they call in torch:",
            "",
            *spots,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="repvgg_a0", choices=MODELS)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to sample")
    parser.add_argument("--svg", type=Path, default=PACKAGE.parent / "docs" / "figures" / "flame.svg")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stacks, seconds, runs = conversions(args.model, args.seconds)
    args.svg.write_text(flame(stacks, seconds, f"Conversion of {args.model}"), encoding="utf-8")
    print(section(args.model, stacks, seconds, runs, f"figures/{args.svg.name}"))


if __name__ == "__main__":
    main()
