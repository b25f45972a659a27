"""grammar: what a recipe says about branches, read into `Branch` values. Every problem comes with its place.

A branch is a list of operations, ``[conv, bn]``; ``x4: [conv: {kernel_size: 1}, bn]`` is four of them;
``{steps: [bn], name: skip, train: false}`` gives its module a name and does not train it;
``[sum: [[conv, bn], [identity]], scale]`` adds branches inside a branch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from reparamkit.branch import BranchOp
from reparamkit.expand.names import is_usable
from reparamkit.expand.ops.nest import SUM
from reparamkit.expand.placed import Branch, Step
from reparamkit.recipe.problem import DataPath, Problem, closest, quoted

MAX_REPEAT = 64
_REPEAT = re.compile(r"x([1-9][0-9]{0,3})")
_KEYS = ("steps", "name", "train", "repeat")
NOT_AFFINE = frozenset(
    "relu relu6 gelu silu swish mish sigmoid tanh hardswish hardsigmoid leaky_relu prelu elu selu softmax act "
    "activation maxpool max_pool se squeeze_excite attention layernorm layer_norm ln groupnorm group_norm gn "
    "instancenorm instance_norm rmsnorm".split()
)


@dataclass
class Reader:
    """Reads branches; `problems` are what was wrong.

    Attributes:
        ops: operations by name.
        problems: found so far.
    """

    ops: Mapping[str, BranchOp]
    problems: list[Problem] = field(default_factory=list)

    def branches(self, data: Any, path: DataPath) -> tuple[Branch, ...]:
        """A list of branches, repetitions written out."""
        if not isinstance(data, Sequence) or isinstance(data, str) or not data:
            self._wrong(path, f"expected a list of branches, got {quoted(str(data))}")
            return ()
        return tuple(b for i, one in enumerate(data) for b in self._branch(one, (*path, i)))

    def _branch(self, data: Any, path: DataPath) -> tuple[Branch, ...]:
        if isinstance(data, list | tuple):
            return (Branch(self._steps(data, path)),)
        if not isinstance(data, Mapping):
            self._wrong(path, f"expected a list of operations, got {quoted(str(data))}")
            return ()
        if len(data) == 1 and (found := _REPEAT.fullmatch(str(next(iter(data))))):
            key = next(iter(data))
            return self._repeated(Branch(self._steps(data[key], (*path, key))), int(found[1]), path)
        return self._written_out(data, path)

    def _written_out(self, data: Mapping[str, Any], path: DataPath) -> tuple[Branch, ...]:
        for key in data:
            if key not in _KEYS:
                hint = closest(str(key), [*_KEYS, "x4"])
                self.problems.append(Problem("RK702", f"unknown key {quoted(str(key))}{hint}", (*path, key), True))
        name, train, repeat = data.get("name", ""), data.get("train", True), data.get("repeat", 1)
        if name != "" and (not isinstance(name, str) or not is_usable(name)):
            self._wrong((*path, "name"), f"expected a name that a module attribute can have, got {quoted(str(name))}")
        if not isinstance(train, bool):
            self._wrong((*path, "train"), f"expected true or false, got {quoted(str(train))}")
        if type(repeat) is not int:
            self._wrong((*path, "repeat"), f"expected a whole number, got {quoted(str(repeat))}")
            repeat = 1
        if "steps" not in data:
            self._wrong(path, "missing key 'steps'")
            return ()
        branch = Branch(self._steps(data["steps"], (*path, "steps")), str(name), train is True)
        return self._repeated(branch, repeat, path)

    def _repeated(self, branch: Branch, count: int, path: DataPath) -> tuple[Branch, ...]:
        if 1 <= count <= MAX_REPEAT:
            return (branch,) * count
        self._wrong(path, f"expected 1 to {MAX_REPEAT} repetitions, got {count}")
        return ()

    def _steps(self, data: Any, path: DataPath) -> tuple[Step, ...]:
        if not isinstance(data, list | tuple) or not data:
            self._wrong(path, f"expected a list of operations, got {quoted(str(data))}")
            return ()
        steps = (self._step(one, (*path, i)) for i, one in enumerate(data))
        return tuple(s for s in steps if s is not None)

    def _step(self, data: Any, path: DataPath) -> Step | None:
        if isinstance(data, Mapping) and len(data) == 1:
            name, options = next(iter(data.items()))
            place: DataPath = (*path, name)
        elif isinstance(data, str):
            name, options, place = data, None, path
        else:
            self._wrong(path, f"expected an operation like 'bn' or 'conv: {{kernel_size: 1}}', got {quoted(str(data))}")
            return None
        op = self.ops.get(name)
        if op is None:
            self.problems.append(_unknown(str(name), self.ops, place, at_key=isinstance(data, Mapping)))
            return None
        if name == SUM:
            return Step(op, op.options(), self.branches(options, place))
        return self._with_options(op, {} if options is None else options, place)

    def _with_options(self, op: BranchOp, options: Any, path: DataPath) -> Step | None:
        if not isinstance(options, Mapping):
            self._wrong(path, f"expected options of {op.name!r} as a mapping, got {quoted(str(options))}")
            return None
        try:
            return Step(op, op.options.model_validate(dict(options)))
        except ValidationError as error:
            self.problems += [_option(op, detail, path) for detail in error.errors(include_url=False)]
            return None

    def _wrong(self, path: DataPath, message: str) -> None:
        self.problems.append(Problem("RK704", message, path))


def _unknown(name: str, ops: Mapping[str, BranchOp], path: DataPath, at_key: bool) -> Problem:
    if name.lower() in NOT_AFFINE:
        reason = f"{quoted(name)} is not affine in eval mode: branches with it do not collapse into one layer"
        return Problem("RK710", reason, path, at_key)
    return Problem("RK709", f"there is no operation {quoted(name)}{closest(name, ops)}", path, at_key)


def _option(op: BranchOp, detail: Any, path: DataPath) -> Problem:
    # Alternatives of a union add their own names to the place; the option is the first step of it.
    key = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        return Problem("RK702", f"{op.name} has no option {quoted(key)}{_known(op, key)}", (*path, key), True)
    message = detail["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    return Problem("RK704", f"{op.name}.{key}: {message}, got {quoted(str(detail['input']))}", (*path, key))


def _known(op: BranchOp, key: str) -> str:
    return closest(key, op.options.model_fields) if op.options.model_fields else " (it has none)"
