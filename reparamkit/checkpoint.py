"""Weights in and out of files: safetensors, or tensors only from what `torch.save` wrote. Never a pickled object."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_NESTED = ("state_dict", "model")  # training scripts like to store the weights beside the optimizer's state


class CheckpointError(ValueError):
    """A checkpoint cannot be read, does not fit the model or cannot be written."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into `model`; every key must fit.

    Args:
        model: takes the weights.
        path: a safetensors file, or one that `torch.save` wrote (read with ``weights_only=True``).

    Raises:
        CheckpointError: the file cannot be read, or its keys or shapes are not the model's.
    """
    try:
        model.load_state_dict(_read(path))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return _safetensors_load(path)
    stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    for key in _NESTED:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
            break
    if not isinstance(stored, Mapping) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise CheckpointError(f"{path}: expected a mapping from names to tensors")
    return stored


def _safetensors_load(path: Path) -> Mapping[str, Tensor]:
    safetensors = _safetensors()
    try:
        loaded: Mapping[str, Tensor] = safetensors.load_file(path)
    except Exception as error:  # its own exception type is not public in every version
        raise CheckpointError(f"{path}: {error}") from error
    return loaded


def checked_target(path: Path, *, force: bool) -> None:
    """Raise `CheckpointError` when `path` cannot be written: asked before the work, not after it.

    Args:
        path: the file to be.
        force: an existing file may be replaced.

    Raises:
        CheckpointError: not called .safetensors, no such folder, or the file exists.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: the name of the output must end in .safetensors")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent}: no such folder")
    if path.is_dir() or (path.exists() and not force):
        raise CheckpointError(f"{path} exists; --force replaces it" if path.is_file() else f"{path} is a folder")
    _safetensors()


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of `model` as safetensors; `path` is complete or as it was.

    Args:
        model: whose weights; shared tensors are stored once.
        path: the file.
        metadata: stored in the file's header.

    Raises:
        CheckpointError: the file cannot be written.
    """
    # Beside the target, since a file can only be moved in one step within a file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors lets only the owner read; the umask says what is meant
        _safetensors().save_model(model, str(temporary), dict(metadata or {}))
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise CheckpointError("safetensors is not installed: pip install 'reparamkit[safetensors]'") from None
    return safetensors.torch
