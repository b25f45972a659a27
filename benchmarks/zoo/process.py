"""One model in a process of its own, with limits on time and memory.

The libraries are imported once, in a server that forks a process for each model: importing them takes longer than
most models do.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

_PRELOAD = ["torch", "torchvision", "timm", "ultralytics", "transformers.modeling_utils", "zoo.check"]


def in_a_process(spec: str, seconds: float, gigabytes: float) -> dict[str, Any]:
    """The result for one model, whatever happens in it."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(spec, gigabytes, send), daemon=True)
    started = time.perf_counter()
    process.start()
    send.close()
    result = _received(spec, receive, seconds, process)
    process.kill()
    process.join()
    return {**result, "total_seconds": round(time.perf_counter() - started, 1)}


def _received(spec: str, receive: Connection, seconds: float, process: Any) -> dict[str, Any]:
    if not receive.poll(seconds):
        return {"spec": spec, "problems": [f"took more than {seconds:g} s"]}
    try:
        return dict(receive.recv())
    except EOFError:
        process.join()
        return {"spec": spec, "problems": [f"died: exit code {process.exitcode}"]}


def _child(spec: str, gigabytes: float, send: Connection) -> None:
    size = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # what the libraries print as they build a model is not ours
    os.dup2(silent, 2)
    send.send(measured(spec))


def measured(spec: str) -> dict[str, Any]:
    """The result for one model in this process; a crash of a model is a result, not the end of the run."""
    import torch

    torch.set_num_threads(1)
    from zoo.check import check

    try:
        return check(spec)
    except Exception as error:  # whatever a model raises is what there is to tell of it
        told = f"crashed: {type(error).__name__}: {error}"
        return {"spec": spec, "problems": [told], "trace": traceback.format_exc()}
