"""classes: the classes of recording twins, made for one survey and gone with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.fx.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

PAST_HOOKS = "reparamkit.past_hooks"  # a mark of nodes: the forward was called itself, which runs no hooks


class Absent:
    """Stands for an attribute that is not there."""


def _recorded(self: Any, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if not _has_proxy((args, kwargs)):
        self._twin_tracer.ran.add(self._twin_path)
        return run(self, *args, **kwargs)
    made = self._twin_tracer.create_proxy("call_module", self._twin_path, args, kwargs)
    made.node.meta[PAST_HOOKS] = run is not type(self)._twin_of.__call__
    return made


def _slicing(cls: Any) -> dict[str, Any]:
    """A slice of the twin of a sequence or list is a plain one of the twins in it."""
    if cls not in (nn.Sequential, nn.ModuleList):
        return {}

    def item(self: Any, index: Any) -> Any:
        if not isinstance(index, slice):
            return cls.__getitem__(self, index)
        chosen = list(self._modules.values())[index]
        return cls(*chosen) if cls is nn.Sequential else cls(chosen)

    return {"__getitem__": item}


class TwinClasses:
    """The classes of twins, each made once."""

    def __init__(self) -> None:
        self._recording: dict[type, type] = {}
        self._rooted: dict[type, type] = {}

    def recording(self, cls: type) -> type:
        """A subclass of `cls` whose call is recorded; called on real tensors alone, it runs."""
        if cls not in self._recording:
            self._recording[cls] = _recording_class(cls)
        return self._recording[cls]

    def rooted(self, cls: type) -> type:
        """A subclass of `cls` that notes when its forward looks at ``self.training``."""
        if cls not in self._rooted:
            self._rooted[cls] = _root_class(cls)
        return self._rooted[cls]


def _recording_class(cls: type) -> type:
    names = {
        "__call__": lambda self, *args, **kwargs: _recorded(self, cls.__call__, args, kwargs),
        "forward": lambda self, *args, **kwargs: _recorded(self, cls.forward, args, kwargs),  # type: ignore[attr-defined]
        "_twin_of": cls,
        **_common(cls),
        **_slicing(cls),
    }
    return type(cls.__name__, (cls,), names)


def _root_class(cls: type) -> type:
    def training(self: Any) -> bool:
        state_of(self)["_twin_reads_training"] = True
        return False

    names = {"training": property(training, lambda self, value: None), **_common(cls)}
    return type(cls.__name__, (cls,), names)


def _common(cls: type) -> dict[str, Any]:
    return {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **_logging(cls)}


def _logging(cls: type) -> dict[str, Any]:
    """Class members that write down every attribute a twin's code reads."""
    lookups: tuple[Any, Any] = (getattr(cls, "__getattr__", None), cls.__getattribute__)
    if lookups != (nn.Module.__getattr__, object.__getattribute__):
        return {}

    def read(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        state = object.__getattribute__(self, "__dict__")
        if name in state:
            state["_twin_log"].note(state["_twin_path"], name, value)
        elif name == "__dict__":
            state["_twin_log"].comparable = False
        return state["_twin_log"].symbols.of(value)

    def absent(self: Any, name: str) -> Any:
        state = object.__getattribute__(self, "__dict__")
        for registry in ("_parameters", "_buffers", "_modules"):
            if name in state[registry]:
                return state[registry][name]
        state["_twin_log"].note(state["_twin_path"], name, Absent)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    return {"__getattribute__": read, "__getattr__": absent}


def state_of(module: Any) -> dict[str, Any]:
    """The attributes of a twin, read past its log."""
    return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]


def _has_proxy(tree: Any) -> bool:
    if isinstance(tree, Proxy):
        return True
    if isinstance(tree, dict):
        return any(_has_proxy(v) for v in tree.values())
    return isinstance(tree, (list, tuple)) and any(_has_proxy(v) for v in tree)
