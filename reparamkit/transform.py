"""transform: the pass for rules that linear algebra cannot express. It runs on the merged model.

One rule after the other; for each: survey the model as it is now, let the rule look at every block in its scope,
prove what it returns, and only then change the model. The caller can take all of it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from reparamkit.block import Block, Seen
from reparamkit.edits.emit import Emitted, emit_graph
from reparamkit.edits.rewrite import unwritable
from reparamkit.edits.splice import Journal, Steps, splice
from reparamkit.errors import PluginError, Refusal, ReparamError
from reparamkit.flow import Flow, Frame
from reparamkit.keymap import Move, keys_of
from reparamkit.lift.lifter import Lifter
from reparamkit.merge import Algebra
from reparamkit.paths import below, joined, module_at, within
from reparamkit.prove.block import prove_block
from reparamkit.ranges import Ranges
from reparamkit.report.merged import Merged
from reparamkit.rule import Rewritten, Transform
from reparamkit.scope import allowed_here, switched_on, transforms_of
from reparamkit.survey import Survey, survey
from reparamkit.survey.observe import observe
from reparamkit.trace.traced import Forked

if TYPE_CHECKING:
    from reparamkit.plan import Plan

_LONGEST = 500  # characters of an error of a plugin


@dataclass
class Transformed:
    """What the pass did.

    Attributes:
        merged: one entry a block, for the report.
        refused: what transforms, or the proof, refused.
        moves: where weights went, in order.
    """

    merged: list[Merged] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)


@dataclass(frozen=True)
class _Change:
    frame: Frame
    made: Rewritten
    emitted: Emitted | None

    def steps(self, prefix: str) -> Steps:
        """What is to be done, by paths below `prefix` (the block itself, or the model)."""
        swapped = {joined(prefix, n): m for n, m in self.made.modules.items() if _exists(self.frame, n)}
        fresh = {n: m for n, m in self.made.modules.items() if not _exists(self.frame, n)}
        return Steps(modules=swapped, rewrites={} if self.emitted is None else {prefix: (self.emitted, fresh)})


def _exists(frame: Frame, name: str) -> bool:
    return module_at(frame.module, name) is not None


def transform(made: Plan, model: nn.Module, example_inputs: Any, rtol: float | None, journal: Journal) -> Transformed:
    """Run the transforms that the recipe names on a merged model.

    Args:
        made: the plan that was carried out.
        model: the merged model; it is changed in place.
        example_inputs: as for `apply`.
        rtol: largest relative deviation of a block; `None` skips the proofs.
        journal: what is done is written down there.

    Raises:
        VerificationError: RK901 when a block computes something else after a transform.
        PluginError: RK804 when a transform raises.
    """
    done = Transformed()
    for rule in transforms_of(made.recipe, made.registry):
        seen = None if example_inputs is None else observe(model, example_inputs)
        while _run(rule, made, model, seen, rtol, done, journal):
            pass
    return done


def _run(
    rule: Transform,
    made: Plan,
    model: nn.Module,
    seen: Mapping[str, Seen | None] | None,
    rtol: float | None,
    done: Transformed,
    journal: Journal,
) -> bool:
    """One look at every block; whether some were left out because a block around them was changed."""
    found = survey(model, made.registry)
    scopes = {s.path: s.block for s in made.scopes}
    algebra = Algebra(made.registry.merge, switched_on(made.recipe, made.registry.opt_in_ids))
    steps, gone, refused, left = Steps(), list[str](), list[Refusal](), False
    for flow in Lifter(found, made.registry, algebra).flows():
        ranges = Ranges(flow)
        for path, frame in sorted(flow.frames.items(), key=lambda item: item[0].count(".") + bool(item[0])):
            if not allowed_here(rule.rule, rule.opt_in, path, scopes):
                continue
            if within(path, gone) or any(below(g, path) for g in gone):
                left = True
                continue
            change = _change(rule, frame, flow, found, ranges, seen)
            error = None
            if isinstance(change, _Change) and rtol is not None:
                known = None if seen is None else seen.get(path)
                proof = prove_block(frame, change.steps(""), rule, ranges, known, rtol)
                change, error = (proof, None) if isinstance(proof, Refusal) else (change, proof)
            if isinstance(change, Refusal):
                refused.append(change.at(path or "(root)"))
            elif change is not None:
                for name, dtype in change.made.dtypes.items():
                    change.made.modules[name].to(dtype)
                _add(steps, change)
                gone += [joined(path, n) for n in (*change.made.modules, *_removed(change))]
                done.merged.append(_merged(change, rule, error))
                done.moves.append(_move(change))
    splice(model, steps, journal)
    if not left:
        done.refused += refused
    return left


def _change(
    rule: Transform,
    frame: Frame,
    flow: Flow,
    found: Survey,
    ranges: Ranges,
    seen: Mapping[str, Seen | None] | None,
) -> _Change | Refusal | None:
    block = Block(frame, found, ranges, seen)
    try:
        made = rule.run(block)
    except ReparamError:
        raise
    except Exception as error:
        where = frame.path or "(root)"
        text = f"{rule.rule} (plugin {rule.origin}) at {where}: {type(error).__name__}: {error}"
        raise PluginError("RK804", text[:_LONGEST]) from error
    if made is not None and not isinstance(made, (Rewritten, Refusal)):
        text = f"expected Rewritten, a Refusal or None, got a {type(made).__name__}"
        raise PluginError("RK804", f"{rule.rule} (plugin {rule.origin}) at {frame.path or '(root)'}: {text}")
    if not isinstance(made, Rewritten):
        return made
    emitted = None if made.graph is None else _emitted(block, frame, made.graph, found, flow)
    if isinstance(emitted, Refusal):
        return emitted
    change = _Change(frame, made, emitted)
    touched = [n for n in made.modules if block.exists(n)]
    touched += [n for n in _removed(change) if block.exists(n)]
    return next((r for r in map(block.free, touched) if r is not None), change)


def _emitted(block: Block, frame: Frame, graph: fx.Graph, found: Survey, flow: Flow) -> Emitted | Refusal:
    refusal = unwritable(frame)
    if refusal is not None:
        return refusal
    ways = found.traced.get(id(frame.module))
    if isinstance(ways, Forked) and not (flow.main and frame.path == flow.path == ""):
        return Refusal("RK604", "what its forward does depends on what it is given", frame.path)
    return emit_graph(frame, graph, block.live)


def _removed(change: _Change) -> tuple[str, ...]:
    return () if change.emitted is None else change.emitted.removed


def _add(steps: Steps, change: _Change) -> None:
    mine = change.steps(change.frame.path)
    steps.modules.update(mine.modules)
    steps.rewrites.update(mine.rewrites)


def _move(change: _Change) -> Move:
    path, names = change.frame.path, (*change.made.modules, *_removed(change))
    fresh = [joined(name, key) for name, module in change.made.modules.items() for key in keys_of(module)]
    return Move(tuple(joined(path, name) for name in names), tuple(joined(path, key) for key in fresh))


def _merged(change: _Change, rule: Transform, error: float | None) -> Merged:
    root = change.frame.module
    names = [n for n in (*change.made.modules, *_removed(change)) if _exists(change.frame, n)]
    before = sum(p.numel() for n in dict.fromkeys(names) for p in root.get_submodule(n).parameters())
    after = sum(p.numel() for module in change.made.modules.values() for p in module.parameters())
    texts = change.made.before or ", ".join(names), change.made.after or ", ".join(change.made.modules)
    return Merged(change.frame.path, "transform", (rule.rule,), *texts, before, after, 0.0, 0.0, error)
