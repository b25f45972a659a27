"""The deploy form beside the train form, the author's deploy form and other ways to make a model fast.

What a forward does is counted and the same everywhere; time is measured in turns, CPU and wall, one thread. Results
are appended to a file, one line a model and batch size; `--page` writes the page from it.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from deployed.engines import ENGINES, prepared
from deployed.models import MODELS, author, build, fx_fuse, images
from deployed.page import page
from deployed.timing import interleaved, ratio
from deployed.work import Work, work
from torch import Tensor, nn

import reparamkit

FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "train": lambda model: model,
    "author": author,
    "reparamkit": reparamkit.apply,
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    for name in () if args.measured else args.models or MODELS:
        for batch in args.batch:
            result = measure(name, batch, args.engines, args.rounds)
            print(json.dumps(result, indent=None if args.rounds else 1)[:400], flush=True)
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
    if args.page:
        text = "\n".join([page(args.results, machine()), *(f.read_text(encoding="utf-8") for f in args.also)])
        args.page.write_text(text, encoding="utf-8")


def measure(name: str, batch: int, engines: list[str], rounds: int) -> dict[str, Any]:
    """Counts and time ratios of one model."""
    model, x = build(name), images(name, batch)
    forms = {form: make(model) for form, make in FORMS.items()}
    counted = {form: count(made, x) for form, made in forms.items()}
    result: dict[str, Any] = {"model": name, "batch": batch, "rounds": rounds, "work": counted}
    if rounds:
        result |= time_all(forms, engines, x, rounds)
    return result


def count(model: nn.Module, x: Tensor) -> dict[str, int]:
    found: Work = work(model, x)
    return {key: value for key, value in asdict(found).items() if key != "names"}


def time_all(forms: dict[str, nn.Module], engines: list[str], x: Tensor, rounds: int) -> dict[str, Any]:
    """Speed-up of every form in every engine over the train form in eager mode, and over the author's form."""
    runs, failed = {}, {}
    peers = {"fx": fx_fuse}
    for engine in engines:
        for form, model in forms.items():
            attempt(runs, failed, f"{form} {engine}", lambda m=model, e=engine: prepared(m, e, x))
    for peer, make in peers.items():
        attempt(runs, failed, f"{peer} eager", lambda make=make: prepared(make(forms["train"]), "eager", x))
    gc.collect()
    times = interleaved(runs, rounds)
    base = "train eager"
    return {
        "failed": failed,
        "speedup": {name: {"cpu": ratio(times, base, name), "wall": ratio(times, base, name, 1)} for name in runs},
        "beside": {
            engine: {
                other: {
                    "cpu": ratio(times, f"{other} {engine}", f"reparamkit {engine}"),
                    "wall": ratio(times, f"{other} {engine}", f"reparamkit {engine}", 1),
                }
                for other in ("train", "author")
                if {f"{other} {engine}", f"reparamkit {engine}"} <= set(runs)
            }
            for engine in engines
        },
    }


def attempt(runs: dict[str, Any], failed: dict[str, str], name: str, make: Callable[[], Any]) -> None:
    """What an engine or a peer cannot do is a result, not the end."""
    try:
        runs[name] = make()
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error) else ''}"


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
    parser.add_argument("--batch", type=int, nargs="*", default=[1], help="batch sizes (default 1)")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), help=f"default: {' '.join(ENGINES)}")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of timing; 0 counts only")
    parser.add_argument("--results", type=Path, default=Path("deploy.jsonl"), help="appended to")
    parser.add_argument("--page", type=Path, help="write the page with all that is in the results")
    parser.add_argument("--measured", action="store_true", help="measure nothing: the page from what is there")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="what the other scripts print, for the page")
    args = parser.parse_args()
    unknown = set(args.models) - set(MODELS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MODELS)}")
    return args


if __name__ == "__main__":
    main()
