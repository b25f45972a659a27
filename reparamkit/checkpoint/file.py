"""Weights in and out of files: safetensors, or tensors only from what `torch.save` wrote. Never a pickled object."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reparamkit.errors import CheckpointError, MissingExtraError
from reparamkit.output import checked_target, replacing

_NESTED = ("state_dict", "model", "model_state_dict")  # training scripts store the weights beside the optimizer's state


@dataclass(frozen=True, eq=False)
class Stored:
    """What a checkpoint holds.

    Attributes:
        path: its file.
        tensors: by key.
        metadata: text by key; empty for a file that `torch.save` wrote.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read(path: Path) -> Stored:
    """The tensors of a checkpoint, on the CPU.

    Args:
        path: a safetensors file, or one that `torch.save` wrote (read with ``weights_only=True``).

    Raises:
        CheckpointError: RK910 when the file cannot be read, or holds something else.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        _refuse_compressed(path)
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file from a stranger may break the reader in any way
        raise CheckpointError("RK910", f"{path}: {error}") from error
    for key in _NESTED:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
            break
    named = isinstance(stored, Mapping) and all(isinstance(k, str) for k in stored)
    if not named or not all(isinstance(v, Tensor) for v in stored.values()):
        raise CheckpointError("RK910", f"{path}: expected a mapping from names to tensors")
    return Stored(path, stored, {})


def _refuse_compressed(path: Path) -> None:
    """`torch.save` compresses nothing: what is compressed may unpack to any size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        compressed = next((i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED), None)
    if compressed is not None:
        raise ValueError(f"expected an archive as torch.save writes it, got one in which {compressed!r} is compressed")


def _read_safetensors(path: Path) -> Stored:
    module = safetensors_module()
    try:
        with module.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except Exception as error:  # its own exception type is not public in every version
        raise CheckpointError("RK910", f"{path}: {error}") from error
    # safetensors' own convention for a tensor with two names: the name left out -> the name it is stored under.
    aliases = {key: tensors[kept] for key, kept in metadata.items() if key not in tensors and kept in tensors}
    return Stored(path, {**tensors, **aliases}, metadata)


def write(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str], *, force: bool) -> None:
    """Write tensors as safetensors; `path` is complete or as it was.

    Args:
        path: the file; its name ends in .safetensors.
        tensors: by key; one that has two keys is stored once, in row-major order whatever its memory format.
        metadata: text by key.
        force: replace an existing file.

    Raises:
        CheckpointError: RK913 when something is no tensor.
        MissingExtraError: RK921 when safetensors is not installed.
        OutputError: RK912 when the file cannot be written.
    """
    checked_target(path, force=force, suffix=".safetensors")
    kept, aliases = _storable(tensors)
    module = safetensors_module()
    with replacing(path) as temporary:
        try:
            module.save_file(kept, temporary, metadata={**aliases, **metadata})
        except OSError:
            raise
        except Exception as error:  # its own exception type is not public in every version
            raise CheckpointError("RK913", f"{path}: {error}") from error


def _storable(tensors: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that share no memory, and the further names of those that had several."""
    kept: dict[str, Tensor] = {}
    names: dict[Any, str] = {}
    aliases: dict[str, str] = {}
    storages: set[int] = set()
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError("RK913", f"{key} is a {type(tensor).__name__}; only tensors can be stored")
        storage = tensor.untyped_storage().data_ptr()
        identity = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and identity in names:
            aliases[key] = names[identity]
            continue
        names[identity] = key
        plain = tensor.detach().contiguous()
        # A view of what is stored already, or of more than itself, gets memory of its own.
        whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
        kept[key] = plain if whole and plain.untyped_storage().data_ptr() not in storages else plain.clone()
        storages.add(storage)
    return kept, aliases


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safetensors_module() -> Any:
    """`safetensors.torch`, which also has `safe_open`.

    Raises:
        MissingExtraError: RK921 when it is not installed.
    """
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise MissingExtraError("RK921", "safetensors: pip install 'reparamkit[safetensors]'") from None
    return safetensors.torch
