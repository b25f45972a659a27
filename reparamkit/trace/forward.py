"""trace: one module's own forward, as a graph in which its children stay whole.

The forward runs on a *recording twin*: a shallow copy of the module whose children are shallow copies
of a subclass that records its call instead of running it. Nothing is patched, so other threads go on
undisturbed, and whatever the forward stores lands on the twin. Parameters are real tensors: what is
computed from parameters alone is computed, and enters the graph as a constant.

Whole models are rarely traceable; their modules nearly always are. A forward that cannot be traced is
a `Refusal` with the reason and the source line; its children are still traced one by one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_list

from reparamkit.errors import Refusal
from reparamkit.nodes.tensors import Returned, is_tensor_module, surely_tensor
from reparamkit.trace.ambient import ambient
from reparamkit.trace.borders import write_borders
from reparamkit.trace.classes import state_of
from reparamkit.trace.forks import Forks, TooManyWays, runs
from reparamkit.trace.lasting import Lasting, alike, left_behind
from reparamkit.trace.parameters import Takes, placeholders
from reparamkit.trace.proxies import proxies_in
from reparamkit.trace.reasons import raises_itself, reason_of
from reparamkit.trace.reuse import Log, Memory, Shared
from reparamkit.trace.shuffles import write_shuffles
from reparamkit.trace.statements import write_statements
from reparamkit.trace.traced import Forked, Traced
from reparamkit.trace.tracer import TwinTracer
from reparamkit.trace.unstacked import write_unstacked
from reparamkit.trace.watch import Watch


def trace(
    module: nn.Module, storages: frozenset[int], memory: Memory | None = None, takes: Takes = Takes.DEFAULTS
) -> Traced | Forked | Refusal:
    """Trace the forward of `module`, its children as leaves; every way through it, where it depends on its input.

    Args:
        module: a module in eval mode; nothing in it is changed.
        storages: `storages_of` the whole model; a forward that writes to one of them is refused.
        memory: of traces of modules that are alike.
        takes: what it is given for optional arguments.

    Returns:
        The graph, or graphs, or a `Refusal` (RK604) with the reason and the source line.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return Refusal("RK604", "it is TorchScript, which has no Python forward")
    known = None if memory is None else memory.recall(module)
    if known is not None:
        return known  # type: ignore[no-any-return]
    log = Log() if memory is None else Log(shared=memory.shared)
    made = _every_way(module, storages, log, takes)
    if log.stumbled and isinstance(made, Refusal):
        log = Log(sized=True, shared=log.shared)
        made = _every_way(module, storages, log, takes)
    if memory is not None and not isinstance(made, Refusal) and not any(way.ran for way in made.graphs):
        memory.keep(module, log, made)
    return made


def _every_way(module: nn.Module, storages: frozenset[int], log: Log, takes: Takes) -> Traced | Forked | Refusal:
    ways: dict[str, Traced] = {}
    raising: Refusal | None = None
    try:
        for forks in runs():
            made, raises = _one_way(module, storages, log, forks, takes)
            if isinstance(made, Traced):
                ways.setdefault(str(made.graph), made)
            elif raises and forks.answers:
                raising = made
            else:
                return made
    except TooManyWays as error:
        return Refusal("RK604", str(error))
    if not ways:
        assert raising is not None
        return raising
    found = [replace(way, guarded=raising is not None) for way in ways.values()]
    return found[0] if len(found) == 1 else Forked(None, tuple(found))


def _one_way(
    module: nn.Module, storages: frozenset[int], log: Log, forks: Forks, takes: Takes
) -> tuple[Traced | Refusal, bool]:
    """One way through; or why not, and whether a real call that goes this way would raise as well."""
    tracer = TwinTracer(module, log, forks, partial(returned, shared=log.shared))
    try:
        return _followed(tracer, storages, takes)
    finally:
        tracer.release()


def _followed(tracer: TwinTracer, storages: frozenset[int], takes: Takes) -> tuple[Traced | Refusal, bool]:
    made, raises = _run(tracer.module, storages, tracer, takes)
    if isinstance(made, Refusal):
        return made, raises
    left = left_behind(tracer.twins, tracer.log)
    if not left.carried:
        return replace(made, leaves=left.written), False
    unsettled = left.traced or _unsettled(made, left, tracer, storages, takes)
    if unsettled:
        return Refusal("RK604", f"keeps {unsettled} from one call to the next"), False
    return replace(made, leaves=left.written), False


def _unsettled(made: Traced, left: Lasting, first: TwinTracer, storages: frozenset[int], takes: Takes) -> str | None:
    """An attribute that makes the next call, on what this one left, another one."""
    script = tuple(taken for taken, _ in first.forks.answers)
    log = Log(sized=first.log.sized, shared=first.log.shared)
    tracer = TwinTracer(first.module, log, Forks(script), first.returned, left.carried)
    try:
        again, _ = _run(first.module, storages, tracer, takes)
        if not isinstance(again, Traced) or not _alike(made, again):
            return next(iter(left.carried))[1]
        return left.settles(left_behind(tracer.twins, tracer.log))
    finally:
        tracer.release()


def _alike(one: Traced, other: Traced) -> bool:
    return str(one.graph) == str(other.graph) and alike(one.constants, other.constants)


def _run(
    module: nn.Module, storages: frozenset[int], tracer: TwinTracer, takes: Takes
) -> tuple[Traced | Refusal, bool]:
    """One run of the forward; or why there is no trace of it, and whether a real call would raise as well."""
    symbols, watch = tracer.log.symbols, Watch(storages, tracer.log)
    try:
        with torch.enable_grad(), watch:
            tracer.mode = ambient()
            twin = tracer.twin(module, "")
            args, kwargs, tracer.fixed = placeholders(tracer, module, takes)
            result = twin.forward(*args, **kwargs)
            tracer.create_node("output", "output", (tracer.create_arg(result),), {})
    except RecursionError:
        return Refusal("RK604", "nested too deeply for Python's recursion limit"), False
    except Exception as error:  # whatever a user's forward raises on a proxy is the reason it cannot be traced
        tracer.log.stumbled |= isinstance(error, TypeError)
        return Refusal("RK604", reason_of(error)), not tracer.broken and raises_itself(error)
    finally:
        changed = symbols.held.restore()
    if tracer.broken:
        return Refusal("RK604", f"{tracer.broken}, and catches the exception"), False
    if changed:
        return Refusal("RK604", f"changes a {changed} that outlives the call"), False
    if symbols.doubts:
        return Refusal("RK604", symbols.doubts[0]), False
    return _made(tracer, twin, watch), False


def _made(tracer: TwinTracer, twin: nn.Module, watch: Watch) -> Traced:
    """What one run left in its tracer."""
    seen, reads = tracer.seen, frozenset(tracer.seen.named)
    stored = frozenset(p.node for t, _ in tracer.twins for v in state_of(t).values() for p in proxies_in(v))
    constants = {name: tensor.detach().as_subclass(Tensor) for name, tensor in tracer.constants.items()}
    used = {str(n.target) for n in tracer.graph.nodes if n.op == "get_attr"}
    write_statements(tracer.graph)
    write_unstacked(tracer.graph, tracer.changes, stored)
    write_borders(tracer.graph, constants, seen.named)
    write_shuffles(tracer.graph)
    watch.look_at(tracer.constants.values())
    idle = {name for name, tensor in seen.named.items() if name not in used and not watch.has_read(tensor)}
    past = watch.past(seen.named.values())
    tracer.log.comparable &= not past
    return Traced(
        tracer.graph,
        constants,
        tracer.fixed,
        reads_training=bool(state_of(twin).get("_twin_reads_training")),
        reads=reads,
        ran=frozenset(tracer.ran),
        stored=stored,
        switches=tracer.switches,
        looked=frozenset(name for name in idle if isinstance(seen.named[name], nn.Parameter)),
        follows=bool(idle or seen.passed.keys() - reads),
        past=past,
    )


def returned(module: nn.Module, shared: Shared) -> Returned:
    """What a call of `module` surely returns, as its forward tells.

    Args:
        module: a child of a module that is traced.
        shared: the answers so far. Forwards ask each other: without them, as often as they are nested.
    """
    if id(module) not in shared.returns:
        shared.returns[id(module)] = _returned(module, shared)
    return shared.returns[id(module)]


def _returned(module: nn.Module, shared: Shared) -> Returned:
    if module._forward_hooks:
        return Returned()
    if type(module) is nn.Sequential:
        return returned(module[-1], shared) if len(module) else Returned()
    if type(module).__module__.startswith("torch.nn."):
        return Returned(tensor=is_tensor_module(module))
    traced = trace(module, frozenset(), Memory(shared))
    found = set() if isinstance(traced, Refusal) else {_end_of(way.graph, module, shared) for way in traced.graphs}
    return found.pop() if len(found) == 1 else Returned()


def _end_of(graph: fx.Graph, module: nn.Module, shared: Shared) -> Returned:
    last = next(n for n in graph.nodes if n.op == "output").args[0]
    if isinstance(last, (list, tuple)):
        return Returned(parts=len(last)) if type(last) in _PLAIN_LISTS else Returned()
    if not isinstance(last, fx.Node):
        return Returned()
    if last.op == "call_module":
        return returned(module.get_submodule(str(last.target)), shared)
    return Returned(tensor=surely_tensor(last, lambda n: returned(module.get_submodule(str(n.target)), shared).tensor))


_PLAIN_LISTS = (list, tuple, immutable_list)
