"""bytecode: what the code of a function tells before it runs, and what a frame is about to ask.

Python's own `is`, and the class that an `isinstance` asks for, reach no traced value: only the code shows them.
"""

from __future__ import annotations

import builtins
import dis
import types
from typing import TYPE_CHECKING, Any

from reparamkit.remember import remembered

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONTAINERS: dict[object, type] = {"tuple": tuple, "list": list, "dict": dict}
_NAMES = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")


@remembered
def instructions(code: types.CodeType) -> tuple[dis.Instruction, ...]:
    """What the code does, without what only helps the interpreter."""
    return tuple(i for i in dis.get_instructions(code) if i.opname not in ("PRECALL", "CACHE", "PUSH_NULL"))


@remembered
def _places(code: types.CodeType) -> dict[int, int]:
    """Which of the instructions stands at an offset."""
    return {step.offset: place for place, step in enumerate(instructions(code))}


def _steps_from(frame: types.FrameType) -> tuple[dis.Instruction, ...]:
    """What the frame does now, and all that stands behind it."""
    place = _places(frame.f_code).get(frame.f_lasti)
    return () if place is None else instructions(frame.f_code)[place:]


def unpacks(frame: types.FrameType) -> int | None:
    """Into how many names the frame is unpacking something, if that is what it does."""
    steps = _steps_from(frame)
    return int(steps[0].argval) if steps and steps[0].opname == "UNPACK_SEQUENCE" else None


def asserts(frame: types.FrameType) -> bool:
    """Whether the frame is at an ``assert`` statement, as far as its code tells."""
    steps = [step for step in _steps_from(frame)[:3] if step.opname != "TO_BOOL"]
    if len(steps) < 2 or steps[0].opname != "POP_JUMP_IF_TRUE":
        return False
    name = steps[1].opname
    return name == "LOAD_ASSERTION_ERROR" or (name == "LOAD_COMMON_CONSTANT" and steps[1].argval is AssertionError)


@remembered
def doubts(code: types.CodeType) -> tuple[str, ...]:
    """What the code does that no trace can hold, with the place."""
    found = [f"compares by identity ({code.co_qualname}, line {line})" for line in _identities(code)]
    for step in instructions(code):
        if step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars):
            found.append(f"assigns to {step.argval}, which outlives the call ({code.co_qualname})")
    return tuple(found)


def _identities(code: types.CodeType) -> list[str]:
    """Lines on which it compares by identity what might be traced: not with None, nor an attribute of self."""
    steps = instructions(code)
    found = []
    for at, step in enumerate(steps):
        if step.opname != "IS_OP":
            continue
        start, plain = _operand(steps, at)
        if plain and steps[start].opname == "LOAD_CONST" and steps[start].argval in (None, True, False):
            continue
        if start == at - 1 and _is_type_of(steps[:start]) and _container(steps[start]) is not None:
            continue
        if not (plain and _operand(steps, start)[1]):
            found.append(str(next((s.starts_line for s in reversed(steps[: at + 1]) if s.starts_line), "?")))
    return found


def _is_type_of(steps: Sequence[dis.Instruction]) -> bool:
    """Whether the last thing that is done is to ask for the type of a local variable."""
    if len(steps) < 3 or steps[-1].opname != "CALL":
        return False
    return steps[-3].argval == "type" and steps[-2].opname.startswith("LOAD_FAST")


def _container(step: dis.Instruction) -> type | None:
    """The built-in class that an instruction loads, if it is one of those that hold several values."""
    return _CONTAINERS.get(step.argval) if step.opname == "LOAD_GLOBAL" else None


def compared_type(frame: types.FrameType) -> type | None:
    """The class that a type which the frame asks for now is compared with, ``type(x) is tuple``."""
    steps, names = _steps_from(frame)[:3], getattr(frame.f_globals, "real", frame.f_globals)
    compares = len(steps) == 3 and steps[2].opname == "IS_OP" and steps[1].argval not in names
    return _container(steps[1]) if compares else None


def _operand(steps: Sequence[dis.Instruction], end: int) -> tuple[int, bool]:
    """Where the operand that ends before `end` starts, and whether it is a global name or belongs to self."""
    at = end - 1
    while at > 0 and steps[at].opname in ("LOAD_ATTR", "LOAD_METHOD"):
        at -= 1
    step = steps[at]
    of_self = step.opname == "LOAD_FAST" and step.argval == "self"
    if step.opname == "CALL" and [s.argval for s in steps[max(at - 2, 0) : at]] == ["type", "self"]:
        return at - 2, True
    return at, of_self or step.opname in (*_NAMES, "LOAD_CONST")


def asked_kind(frame: types.FrameType) -> Any:
    """The class that an `isinstance` which is running in `frame` asks for; `None` when it is not such a call."""
    steps = instructions(frame.f_code)
    at = next((i for i, step in enumerate(steps) if step.offset >= frame.f_lasti), len(steps))
    try:
        kind, start = _value(steps, at - 1, frame)
    except (LookupError, AttributeError):
        return None
    names = [step.argval for step in steps[:start]]
    return kind if start >= 2 and "isinstance" in names[max(0, start - 6) :] else None


def _value(steps: Sequence[dis.Instruction], at: int, frame: types.FrameType) -> tuple[Any, int]:
    """What the instructions that end at `at` leave on the stack, where they are names and tuples of names."""
    step = steps[at]
    if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        base, start = _value(steps, at - 1, frame)
        return getattr(base, step.argval), start
    if step.opname == "BUILD_TUPLE":
        parts: list[Any] = []
        start = at
        for _ in range(step.argval):
            part, start = _value(steps, start - 1, frame)
            parts.insert(0, part)
        return tuple(parts), start
    if step.opname not in (*_NAMES, "LOAD_FAST"):
        raise LookupError(step.opname)
    value = {**frame.f_builtins, **frame.f_globals, **frame.f_locals}[step.argval]
    if not builtins.isinstance(value, (builtins.type, types.ModuleType)):
        raise LookupError(step.argval)
    return value, at
