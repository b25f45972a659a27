"""What apply() does to the models of timm, torchvision, ultralytics and transformers.

Each model is built with random weights in a process of its own, converted without a recipe and compared in float64; see
README.md. Results go to a file of JSON lines: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def measured(spec: str) -> dict[str, Any]:
    """The result for one model, whatever happens in it."""
    import torch

    torch.set_num_threads(1)
    from zoo.check import check

    try:
        return check(spec)
    except Exception as error:  # a crash of a model is a result, not the end of the run
        return {
            "spec": spec,
            "problems": [f"crashed: {type(error).__name__}: {error}"],
            "trace": traceback.format_exc(),
        }


def in_a_process(spec: str, seconds: float, gigabytes: float) -> dict[str, Any]:
    """`measured` with limits on time and memory."""

    def limit() -> None:
        size = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))

    command = [sys.executable, "-W", "ignore", __file__, "--one", spec]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "YOLO_VERBOSE": "false"}
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, preexec_fn=limit, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {"spec": spec, "problems": [f"took more than {seconds:g} s"]}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    result = json.loads(lines[-1]) if lines else {"spec": spec, "problems": [f"died: {done.stderr.strip()[-300:]}"]}
    return {**result, "total_seconds": round(time.perf_counter() - started, 1)}


def finished(file: Path) -> dict[str, dict[str, Any]]:
    """Results so far, by spec; the last one counts."""
    if not file.exists():
        return {}
    return {r["spec"]: r for r in map(json.loads, file.read_text().splitlines()) if r}


def run_all(specs: list[str], file: Path, jobs: int, seconds: float, gigabytes: float) -> None:
    """Measure what is missing, a line of progress and of results for each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool, file.open("a") as out:
        waiting = {pool.submit(in_a_process, spec, seconds, gigabytes): spec for spec in specs}
        for number, future in enumerate(as_completed(waiting), 1):
            result = future.result()
            out.write(json.dumps(result) + "\n")
            out.flush()
            told = "; ".join(result["problems"]) or f"ok, error {result['error']:.1e}, {_arrow(result)}"
            print(
                f"{number}/{len(specs)} {result['spec']} ({result.get('total_seconds', '?')} s): {told[:200]}",
                flush=True,
            )


def _arrow(result: dict[str, Any]) -> str:
    return ", ".join(f"{kind} {result['before'][kind]} -> {result['after'][kind]}" for kind in ("conv", "norm"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", help="library:name, or a library; all by default")
    parser.add_argument("--one", help="measure one model in this process and print it as JSON")
    parser.add_argument("--results", type=Path, default=Path("coverage.jsonl"), help="JSON lines, appended to")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--page", type=Path, help="write the page for the documentation, docs/coverage.md")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="limit for a model")
    parser.add_argument("--gigabytes", type=float, default=9, help="limit for a model")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one)))
        return 0
    from zoo.models import specs

    wanted = [s for s in specs() if not arguments.specs or s in arguments.specs or s.split(":")[0] in arguments.specs]
    wanted = list(dict.fromkeys([*wanted, *(s for s in arguments.specs if ":" in s)]))
    known = {} if arguments.fresh else finished(arguments.results)
    missing = [s for s in wanted if s not in known]
    run_all(missing, arguments.results, arguments.jobs, arguments.seconds, arguments.gigabytes)
    results = [r for spec, r in finished(arguments.results).items() if spec in wanted]
    if arguments.page:
        from zoo.page import page

        arguments.page.write_text(page(results), encoding="utf-8")
    bad = [r for r in results if r["problems"]]
    print(f"{len(results)} models, {len(bad)} with problems")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
