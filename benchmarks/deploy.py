"""The deploy form beside the train form, the author's deploy form and other ways to make a model fast.

What a forward does is counted and the same everywhere; time is measured in turns, CPU and wall, one thread. A model,
a batch size and an engine are one piece of work with a process of its own. Results are appended to a file, a line a
piece; what is there is not measured again, so a run that was stopped goes on. `--page` writes the page from it. What
docs/benchmarks.md was written from lies in benchmarks/results.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from deployed.engines import ENGINES, prepared
from deployed.lines import Lines, Result
from deployed.models import MODELS, author, build, fx_fuse, images
from deployed.page import page
from deployed.timing import interleaved, ratio
from deployed.work import work
from torch import Tensor, nn

import reparamkit

FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "train": lambda model: model,
    "author": author,
    "reparamkit": reparamkit.apply,
}
COUNTS = "counts"
KEY = ("model", "batch", "engine")


def main() -> None:
    args = arguments()
    if args.one:
        name, batch, engine = args.one
        print(json.dumps(measure(name, int(batch), engine, args.rounds)))
        return
    known = Lines(args.results, KEY)
    if not args.measured:
        measure_all(args, known)
    if args.page:
        text = "\n".join([page(known, machine()), *(f.read_text(encoding="utf-8") for f in args.also)])
        args.page.write_text(text, encoding="utf-8")


def measure_all(args: argparse.Namespace, known: Lines) -> None:
    """Every piece that is not known yet, one after the other, until the time is over."""
    end = time.monotonic() + args.minutes * 60
    engines = [COUNTS, *(args.engines if args.rounds else ())]
    pieces = [(name, batch, engine) for engine in engines for batch in args.batch for name in args.models or MODELS]
    todo = [piece for piece in pieces if unknown(known.get(*piece))]
    for number, piece in enumerate(todo, 1):
        if time.monotonic() > end:
            print(f"time is over: {len(todo) - number + 1} pieces left", flush=True)
            return
        print(f"[{number}/{len(todo)}] {' '.join(map(str, piece))}: ", end="", flush=True)
        found = known.add(in_a_process(piece, args))
        print(told(found), flush=True)


def unknown(result: Result | None) -> bool:
    """What took too long is tried again."""
    return result is None or "all" in result.get("failed", {})


def in_a_process(piece: tuple[str, int, str], args: argparse.Namespace) -> Result:
    """The result of a piece; one that fails or takes too long is a result too."""
    command = [sys.executable, __file__, "--one", *map(str, piece), "--rounds", str(args.rounds)]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.limit)
        failed = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]
    except subprocess.TimeoutExpired:
        failed = f"more than {args.limit} s"
    if failed:
        return {**dict(zip(KEY, piece, strict=True)), "failed": {"all": failed[:160]}}
    result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def told(found: Result) -> str:
    """One line about a piece."""
    failed = "; ".join(f"{form} failed: {why}" for form, why in found.get("failed", {}).items())
    if "work" in found:
        return "kernels " + " -> ".join(str(form["kernels"]) for form in found["work"].values())
    beside = {other: f"{times['cpu'][1]:.2f}" for other, times in found.get("beside", {}).items()}
    return "; ".join(filter(None, [f"time of {beside} over ours" if beside else "", failed]))


def measure(name: str, batch: int, engine: str, rounds: int) -> Result:
    """One piece: what a forward does, or how long it takes in an engine."""
    torch.set_num_threads(1)
    model, x = build(name), images(name, batch)
    forms = {form: make(model) for form, make in FORMS.items()}
    result: Result = {"model": name, "batch": batch, "engine": engine}
    if engine == COUNTS:
        return result | {"work": {form: count(made, x) for form, made in forms.items()}}
    return result | {"rounds": rounds} | time_all(forms, engine, x, rounds)


def count(model: nn.Module, x: Tensor) -> dict[str, int]:
    return {key: value for key, value in asdict(work(model, x)).items() if key != "names"}


def time_all(forms: dict[str, nn.Module], engine: str, x: Tensor, rounds: int) -> Result:
    """Seconds of every form, its speed-up over the train form in eager mode, and the others' time over ours."""
    runs, failed = {"base": prepared(forms["train"], "eager", x)}, {}
    peers = {"fx": lambda: prepared(fx_fuse(forms["train"]), "eager", x)} if engine == "eager" else {}
    for form, make in {**{f: lambda m=m: prepared(m, engine, x) for f, m in forms.items()}, **peers}.items():
        try:
            runs[form] = make()
        except Exception as error:  # what an engine cannot do is a result, not the end
            failed[form] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
    gc.collect()
    times = interleaved(runs, rounds)
    clocks = {"cpu": 0, "wall": 1}
    made = [form for form in runs if form != "base"]
    others = [form for form in made if form != "reparamkit"] if "reparamkit" in made else []
    return {
        "failed": failed,
        "seconds_a_call": {form: {c: ratio(times, form, None, i) for c, i in clocks.items()} for form in made},
        "speedup": {form: {c: ratio(times, "base", form, i) for c, i in clocks.items()} for form in made},
        "beside": {form: {c: ratio(times, form, "reparamkit", i) for c, i in clocks.items()} for form in others},
    }


def machine() -> str:
    """Versions and processor."""
    import timm

    cpu = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return f"{cpu}, one compute thread; torch {torch.__version__}, timm {timm.__version__}, {sys.platform}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8], help="batch sizes (default 1 and 8)")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), help=f"default: {' '.join(ENGINES)}")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of timing; 0 counts only")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no piece after so many")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a piece may take")
    parser.add_argument("--results", type=Path, default=Path("deploy.jsonl"), help="appended to")
    parser.add_argument("--page", type=Path, help="write the page with all that is in the results")
    parser.add_argument("--measured", action="store_true", help="measure nothing: the page from what is there")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="what the other scripts print, for the page")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "BATCH", "ENGINE"), help="print the result of one piece")
    args = parser.parse_args()
    unknown = set(args.models) - set(MODELS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MODELS)}")
    return args


if __name__ == "__main__":
    main()
