"""Where a model named on the command line comes from.

| form                      | what is called                                         |
|---------------------------|--------------------------------------------------------|
| `timm:NAME`               | `timm.create_model(NAME)`                              |
| `torchvision:NAME`        | `torchvision.models.get_model(NAME)`                   |
| `ultralytics:CFG`         | `ultralytics.YOLO(CFG).model`, `CFG` a YAML name       |
| `hf:CONFIG.json`          | the transformers class for that configuration          |
| `package.module:callable` | the callable, without arguments; this runs your code   |

Nothing is downloaded: models have random weights until a checkpoint is loaded, the same ones each time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reparamkit.checkpoint import load_weights
from reparamkit.errors import ReparamError

_PACKAGES = {"hf": "transformers"}


class ModelSourceError(ReparamError):
    """There is no such model, or making it failed."""


def load_model(spec: str, weights: Path | None = None) -> nn.Module:
    """The model that `spec` names, in eval mode.

    Args:
        spec: one of the forms above.
        weights: a checkpoint to load into it.

    Returns:
        The model, as its maker made it but for the mode.

    Raises:
        ModelSourceError: the spec has none of the forms, what it names does not exist, or its maker failed.
        CheckpointError: RK910 the checkpoint cannot be read, RK911 it is not one of this model.
    """
    prefix, colon, name = spec.partition(":")
    if not colon or not prefix or not name:
        raise ModelSourceError(
            "RK920",
            f"model {spec!r}: expected timm:NAME, torchvision:NAME, ultralytics:CFG, hf:CONFIG.json or module:callable",
        )
    maker = _ZOOS.get(prefix)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _from_module(prefix, name) if maker is None else maker(name)
    except ModelSourceError:
        raise
    # Foreign code may fail in any way; whoever typed the name wants to know how, not where in our code.
    except Exception as error:
        raise ModelSourceError("RK920", f"model {spec!r}: {_reason(prefix, error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelSourceError("RK920", f"model {spec!r} is a {type(model).__name__}, not an nn.Module")
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def has_random_weights(spec: str, weights: Path | None) -> bool:
    """Whether the model has the numbers that an untrained one starts with; of a callable nobody knows."""
    return weights is None and spec.partition(":")[0] in _ZOOS


def _reason(prefix: str, error: Exception) -> str:
    package = _PACKAGES.get(prefix, prefix)
    if prefix in _ZOOS and isinstance(error, ModuleNotFoundError) and error.name == package:
        return f"{package} is not installed: pip install 'reparamkit[zoo]'"
    return f"{type(error).__name__}: {error}"


def _timm(name: str) -> Any:
    # hf-hub:OWNER/NAME and local-dir:PATH are fetched, or read, by timm.
    if ":" in name or "/" in name:
        raise ModelSourceError("RK920", f"model 'timm:{name}': expected the name of an architecture (repvgg_a0)")
    return import_module("timm").create_model(name)


def _torchvision(name: str) -> Any:
    return import_module("torchvision.models").get_model(name, weights=None)


def _ultralytics(name: str) -> Any:
    # A .pt file would be unpickled, and fetched when it is not there.
    if Path(name).suffix not in (".yaml", ".yml"):
        raise ModelSourceError("RK920", f"model 'ultralytics:{name}': expected the name of a YAML file (yolov8n.yaml)")
    return import_module("ultralytics").YOLO(name).model


def _hf(file: str) -> Any:
    """A class of transformers itself: what the file says of remote code or pretrained parts is not followed."""
    transformers = import_module("transformers")
    stored = json.loads(Path(file).read_text(encoding="utf-8"))
    kind = stored.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise ModelSourceError("RK920", f"model 'hf:{file}': transformers knows no model_type {kind!r}")
    config = transformers.CONFIG_MAPPING[kind].from_dict(stored)
    parts: list[Any] = [config, getattr(config, "backbone_config", None)]
    for part in parts:
        if getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False
    for name in stored.get("architectures") or ():
        cls: Any = getattr(transformers, str(name), None)
        known = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
        if known and getattr(cls, "config_class", None) is type(config):
            return cls(config)
    return transformers.AutoModel.from_config(config, trust_remote_code=False)


def _from_module(module: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:  # what `python -m` would see
        sys.path.insert(0, here)
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ModelSourceError("RK920", f"model '{module}:{name}' is a {type(found).__name__}, not something to call")
    return found()


_ZOOS: dict[str, Callable[[str], Any]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "ultralytics": _ultralytics,
    "hf": _hf,
}
