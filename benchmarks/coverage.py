"""What apply() does to the models of timm, torchvision, ultralytics and transformers.

Each model is built with random weights in a process of its own, converted without a recipe and compared in float64; see
README.md. Results go to a file of JSON lines: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
# For the processes that are started: one thread each, and modules found where they are found here.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "YOLO_VERBOSE": "false", "HF_HUB_OFFLINE": "1"}
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])


def finished(file: Path) -> dict[str, dict[str, Any]]:
    """Results so far, by spec; the last one counts."""
    if not file.exists():
        return {}
    return {r["spec"]: r for r in map(json.loads, file.read_text().splitlines()) if r}


def run_all(specs: list[str], file: Path, jobs: int, seconds: float, gigabytes: float) -> None:
    """Measure what is missing, a line of progress and of results for each."""
    from zoo.process import in_a_process

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
    parser.add_argument("--page", type=Path, help="write the page for the documentation, docs/zoos.md")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="limit for a model")
    parser.add_argument("--gigabytes", type=float, default=9, help="limit for a model")
    arguments = parser.parse_args()
    if arguments.one:
        from zoo.process import measured

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
