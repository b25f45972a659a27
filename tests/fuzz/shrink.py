"""Makes a program that shows a finding as small as it gets, by leaving out one statement after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from tests.fuzz.oracle import Finding, Unfit, check
from tests.fuzz.program import ClassText, Program


def shrunk(program: Program, kind: str) -> Program:
    """The program without whatever the finding of this kind does not need."""
    while True:
        smaller = next((p for p in _smaller(program) if finding(p, kind) is not None), None)
        if smaller is None:
            return program
        program = smaller


def finding(program: Program, kind: str = "") -> Finding | None:
    """What is found in the program, if it is of this kind."""
    try:
        check(program)
    except Unfit:
        return None
    except Finding as error:
        return error if kind in ("", error.kind) else None
    except Exception:  # a smaller program may fail in another way, in the comparison itself
        return None
    return None


def _smaller(program: Program) -> Iterator[Program]:
    for at in range(len(program.classes)):
        if at + 1 < len(program.classes):
            yield replace(program, classes=(*program.classes[:at], *program.classes[at + 1 :]))
        for one in _smaller_class(program.classes[at]):
            yield replace(program, classes=(*program.classes[:at], one, *program.classes[at + 1 :]))


def _smaller_class(one: ClassText) -> Iterator[ClassText]:
    for at in reversed(range(len(one.body))):
        body = (*one.body[:at], *one.body[at + 1 :])
        yield replace(one, body=body, init=_used(one.init, (*body, one.returned)))
        yield replace(one, body=body)
    for at in reversed(range(len(one.init))):
        yield replace(one, init=(*one.init[:at], *one.init[at + 1 :]))
    if not re.fullmatch(r"v\d+", one.returned):
        for name in dict.fromkeys(re.findall(r"\bv\d+\b", " ".join(one.body))):
            yield replace(one, returned=name)
    if one.header != "v0":
        yield replace(one, header="v0")


def _used(init: tuple[str, ...], body: tuple[str, ...]) -> tuple[str, ...]:
    text = "\n".join(body)
    return tuple(line for line in init if all(name in text for name in re.findall(r"\ba\d+\b", line)[:1]))
