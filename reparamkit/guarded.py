"""guarded: what a merge rule of a plugin may say, and do. It may read its operators, write to none, and answer in kind.

Whatever else it does is a refusal (RK804) that names the rule and its plugin. Of a policy, or of an operation for
branches, it is an error with that code, for nothing goes on without one. The built-in ones are run as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reparamkit.branch import BranchOp
from reparamkit.decide.policy import Policy
from reparamkit.errors import PluginError, Refusal, ReparamError
from reparamkit.mode import Mode
from reparamkit.rule import Add, Align, Compose, Concat, Lower, Rule
from reparamkit.sound import Channels, Unsound, channels, settled
from reparamkit.trace.watch import storage_of

LONGEST = 300  # characters of an exception's text


def guarded(rule: Rule) -> Rule:
    """The rule, made safe to call if it is a merge rule of a plugin."""
    checks: dict[type, Callable[..., Any]] = {
        Compose: _composed,
        Add: _added,
        Concat: _stacked,
        Align: _aligned,
        Lower: _lowered,
    }
    check = checks.get(type(rule))
    if rule.origin == "core" or check is None:
        return rule
    return replace(rule, run=functools.partial(_asked, rule, check))  # type: ignore[arg-type]


def guarded_policy(policy: Policy, origin: str) -> Policy:
    """The policy; what it answers wrongly, and what it raises, is a `PluginError` that names it."""
    who = f"policy {policy.name} ({origin})"
    score = _answering(who, policy.score, (int, float))
    return replace(policy, allows=_answering(who, policy.allows, (bool,)), score=score)


def guarded_branch(op: BranchOp) -> BranchOp:
    """The operation; what it builds wrongly, and what it raises, is a `PluginError` that names it."""
    if op.origin == "core":
        return op
    return replace(op, build=_answering(f"operation {op.name} ({op.origin})", op.build, (nn.Module,)))


def _answering(who: str, run: Callable[..., Any], kinds: tuple[type, ...]) -> Callable[..., Any]:
    def answer(*args: Any) -> Any:
        try:
            said = run(*args)
            if not isinstance(said, kinds) or (isinstance(said, float) and math.isnan(said)):
                raise Unsound(f"expected a {kinds[-1].__name__}, got {_shown(said)}")
        except ReparamError:
            raise
        except Exception as error:  # a plugin may raise anything
            raise PluginError("RK804", _told(who, error)) from error
        return said

    return answer


def _shown(said: Any) -> str:
    return repr(said) if isinstance(said, float) else f"a {type(said).__name__}"


def _told(who: str, error: Exception) -> str:
    text = str(error) if isinstance(error, Unsound) else f"{type(error).__name__}: {error}"
    return f"{who}: {text[:LONGEST]}"


def refusal(rule: Rule, error: Exception) -> Refusal:
    """RK804 with the rule, its plugin and what went wrong."""
    return Refusal("RK804", _told(f"{rule.rule} ({rule.origin})", error))


def _asked(rule: Any, check: Callable[..., Any], *operands: Any) -> Any:
    try:
        with _only_reads(operands):
            said = rule.run(*operands)
            return said if isinstance(said, Refusal) else check(said, *operands)
    except ReparamError:
        raise
    except Exception as error:  # a plugin may raise anything; its merge is not made
        return refusal(rule, error)


def _composed(said: Any, outer: Any, inner: Any) -> Any:
    return _of(said, (channels(inner)[0], channels(outer)[1]))


def _added(said: Any, a: Any, b: Any) -> Any:
    return _of(said, channels(a))


def _stacked(said: Any, parts: Sequence[Any]) -> Any:
    counts = [channels(p)[1] for p in parts]
    total = None if None in counts else sum(c for c in counts if c is not None)
    return _of(said, (channels(parts[0])[0], total))


def _aligned(said: Any, a: Any, b: Any) -> Any:
    if not isinstance(said, tuple) or len(said) != 2:
        raise Unsound(f"expected two operators or a Refusal, got a {type(said).__name__}")
    return tuple(new if new is old else _of(new, channels(old)) for new, old in zip(said, (a, b), strict=True))


def _lowered(said: Any, op: Any, like: Any) -> Any:
    if not isinstance(said, nn.Module):
        raise Unsound(f"expected a module or a Refusal, got a {type(said).__name__}")
    return said


def _of(said: Any, wanted: Channels) -> Any:
    op = settled(said)
    for got, want, what in zip(channels(op), wanted, ("input", "output"), strict=True):
        if got is not None and want is not None and got != want:
            raise Unsound(f"expected {want} {what} channels, got {got}")
    return op


@contextmanager
def _only_reads(operands: Any) -> Iterator[None]:
    """Stop writes to tensors that are not made inside, and put back fields of the operators."""
    held = [(part, {f.name: getattr(part, f.name) for f in fields(part)}) for part in _parts(operands)]
    try:
        with _OwnTensors():
            yield
    finally:
        changed = [n for part, was in held for n in was if getattr(part, n, held) is not was[n]]
        for part, was in held:
            for name, value in was.items():
                object.__setattr__(part, name, value)
    if changed:
        raise Unsound(f"changes {changed[0]} of an operator it is given")


def _parts(thing: Any) -> Iterator[Any]:
    """The operators and kernels that make up `thing`."""
    if isinstance(thing, (list, tuple)):
        for item in thing:
            yield from _parts(item)
    elif is_dataclass(thing):
        yield thing
        for field in fields(thing):
            yield from _parts(getattr(thing, field.name))


class _OwnTensors(Mode):
    """Tensors that exist already may be read only; random numbers belong to the user."""

    def __init__(self) -> None:
        super().__init__()
        self.own: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Unsound(f"draws random numbers ({func})")
        given = _storages((args, kwargs or {}))
        if func._schema.is_mutable and not _written(func, args, kwargs or {}) <= self.own:
            raise Unsound(f"changes a tensor it is given ({func})")
        result = func(*args, **(kwargs or {}))
        self.own |= _storages(result) - given
        return result


def _storages(tree: Any) -> set[int]:
    return {storage_of(t) for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)}


def _written(func: Any, args: Any, kwargs: Any) -> set[int]:
    arguments = [
        args[at] if at < len(args) else kwargs.get(argument.name)
        for at, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _storages(arguments)
