"""Checkpoints from strangers: they are tensors, or they are refused."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import reparamkit
from reparamkit.checkpoint import load, load_weights
from tests.hazards.row import hazard
from tests.hazards.told import CALL, raises
from tests.helpers import assert_untouched, randomize, snapshot

pytest.importorskip("safetensors")


class Harm:
    """What a pickle does when it is loaded carelessly."""

    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def model() -> nn.Module:
    return randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


def state(**more: Any) -> dict[str, Any]:
    return {**model().state_dict(), **more}


def refused(file: Path, code: str) -> str:
    """The message, which names the file; the model that should have got the weights is as it was."""
    target = model()
    before = snapshot(target)
    with raises(code, file.name) as caught:
        load_weights(target, file)
    with raises("RK910", file.name):
        load(target, file)
    assert_untouched(target, before)
    return str(caught.value)


PICKLES = {
    "alone": Harm(),
    "as a value": {"0.weight": Harm()},
    "beside the weights": {"state_dict": model().state_dict(), "optimizer": Harm()},
    "as metadata": {"state_dict": model().state_dict(), "args": [Harm()]},
    "a whole model": model(),
}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("what", PICKLES.values(), ids=PICKLES.keys())
@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "safetensors", "txt"])
@hazard("S8", "pickles that run code when they are loaded", "refused", "RK910")
def test_s8_pickles(what: Any, suffix: str, raw: bool, harmless: Path, attacking: list[str]) -> None:
    file = harmless / f"evil.{suffix}"
    if raw:
        file.write_bytes(pickle.dumps(what))
    else:
        torch.save(what, file)
    attacking.clear()  # the test itself wrote that
    refused(file, "RK910")


@hazard("S8", "a pickle that calls back into torch", "refused", "RK910")
def test_s8_a_pickle_of_functions_of_torch(harmless: Path, attacking: list[str]) -> None:
    file = harmless / "evil.pt"
    file.write_bytes(b"ctorch\nload\n(Vother.pt\nI00\ntR.")
    attacking.clear()
    refused(file, "RK910")


def _safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _header(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


MALFORMED = {
    "empty": b"",
    "one byte": b"\0",
    "header of 2**63 bytes": struct.pack("<Q", 1 << 63),
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of 200 MB promised": struct.pack("<Q", 200 << 20) + b"{}",
    "no JSON": _safetensors(b"not json"),
    "no UTF-8": _safetensors(b"\xff\xfe"),
    "a list": _safetensors(b"[]"),
    "deep": _safetensors(b"[" * 50_000),
    "overlap": _safetensors(_header(a=_entry(0, 8, [2]), b=_entry(4, 12, [2])), b"\0" * 12),
    "hole": _safetensors(_header(a=_entry(0, 4, [1]), b=_entry(8, 12, [1])), b"\0" * 12),
    "past the end": _safetensors(_header(a=_entry(0, 4000, [1000])), b"\0" * 4),
    "backwards": _safetensors(_header(a=_entry(8, 0, [2])), b"\0" * 8),
    "negative": _safetensors(_header(a=_entry(-8, 0, [2])), b"\0" * 8),
    "shape that overflows": _safetensors(_header(a=_entry(0, 4, [1 << 62, 1 << 62])), b"\0" * 4),
    "shape that is not the data's": _safetensors(_header(a=_entry(0, 4, [7])), b"\0" * 4),
    "unknown dtype": _safetensors(_header(a=_entry(0, 4, [1], "X9")), b"\0" * 4),
    "a million entries": _safetensors(_header(**{str(i): _entry(0, 0, [0]) for i in range(100_000)})),
    "metadata that is no text": _safetensors(b'{"__metadata__": {"a": {"b": 1}}}'),
    "two entries of one name": _safetensors(
        f'{{"a": {json.dumps(_entry(0, 4, [1]))}, "a": {json.dumps(_entry(4, 8, [1]))}}}'.encode(), b"x" * 8
    ),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
@hazard("S9", "malformed safetensors: sizes, offsets, shapes, headers that lie", "refused", "RK910")
def test_s9_safetensors(content: bytes, harmless: Path, attacking: list[str]) -> None:
    file = harmless / "evil.safetensors"
    file.write_bytes(content)
    attacking.clear()  # the test itself wrote that
    assert len(refused(file, "RK911" if content is MALFORMED["a million entries"] else "RK910")) < 10_000


ALL = """
import resource
from pathlib import Path
from tests.attacks.test_hostile_checkpoints import MALFORMED, load, load_weights, model
from reparamkit.errors import CheckpointError

target, file, refused = model(), Path("evil.safetensors"), 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for content in MALFORMED.values():
    file.write_bytes(content)
    for read in (load, load_weights):
        try:
            read(target, file)
        except CheckpointError:
            refused += 1
print(refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@hazard("S9", "all of them in bounded time and memory", "refused", "RK910")
def test_s9_the_whole_corpus_stays_within_limits(harmless: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))

    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, env=env, preexec_fn=limit)
    assert done.returncode == 0, done.stderr[-2000:]
    count, kilobytes = map(int, done.stdout.split())
    assert count == 2 * len(MALFORMED)
    assert kilobytes < 256 << 10


STRANGE: dict[str, tuple[Any, str]] = {
    "missing and unexpected": ({"x": torch.ones(1)}, "RK911"),
    "of another shape": (state(**{"0.weight": torch.ones(4, 3, 3, 4)}), "RK911"),
    "huge without memory": (state(**{"0.weight": torch.ones(1).expand(1 << 20, 1 << 20)}), "RK911"),
    "meta": (state(**{"0.weight": torch.empty(4, 3, 3, 3, device="meta")}), "RK911"),
    "sparse": (state(**{"0.weight": torch.ones(4, 3, 3, 3).to_sparse()}), "RK911"),
    "complex": (state(**{"0.weight": torch.ones(4, 3, 3, 3) * 1j}), "RK911"),
    "numbers": ({"0.weight": 1.0}, "RK910"),
    "lists": ([torch.ones(1)], "RK910"),
    "keys that are no text": ({1: torch.ones(1)}, "RK910"),
    "nothing": ({}, "RK911"),
    "none": (None, "RK910"),
    "nested too deep": ({"state_dict": {"state_dict": state()}}, "RK910"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(("content", "code"), STRANGE.values(), ids=STRANGE.keys())
@hazard("S9", "tensors that are not the model's: keys, shapes, kinds", "refused", "RK911")
def test_s9_tensors_that_do_not_fit(content: Any, code: str, harmless: Path, attacking: list[str]) -> None:
    file = harmless / "strange.pt"
    torch.save(content, file)
    attacking.clear()
    refused(file, code)


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "1e999", '{"version": 9}', "[" * 5000, '{"extends": "/etc/passwd"}']
)
@hazard("S9", "a recipe in a checkpoint's header that is none", "refused", "RK910")
def test_s9_recipe_in_the_header(text: str, harmless: Path) -> None:
    from safetensors.torch import save_file

    file = harmless / "evil.safetensors"
    save_file({k: v.contiguous() for k, v in state().items()}, file, metadata={"reparamkit.recipe": text})
    target = model()
    before = snapshot(target)
    with raises("RK910", file.name):
        load(target, file)
    assert_untouched(target, before)


@hazard("S10", "an output that would go through a link, or over a file", "refused", "RK912")
def test_s10_links_at_the_output_are_replaced(harmless: Path) -> None:
    precious = harmless / "precious"
    precious.write_text("mine")
    out = harmless / "out"
    out.mkdir()
    (out / "deploy.safetensors").symlink_to(precious)
    with raises("RK912", "deploy.safetensors"):
        reparamkit.save(model(), out / "deploy.safetensors")
    reparamkit.save(model(), out / "deploy.safetensors", force=True)
    assert precious.read_text() == "mine"
    assert not (out / "deploy.safetensors").is_symlink()


@hazard("S10", "a link laid where the temporary file is expected", "refused", "RK912")
def test_s10_temporary_names_cannot_be_guessed(harmless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = harmless / "precious"
    precious.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda size: "known")
    (harmless / ".deploy.safetensors.known.tmp").symlink_to(precious)
    with raises("RK912", "deploy.safetensors"):
        reparamkit.save(model(), harmless / "deploy.safetensors")
    assert precious.read_text() == "mine"


OUTPUTS = {name: name for name in ("../out.txt", "deploy.pt", "folder.safetensors")}
OUTPUTS["missing/deploy.safetensors"] = "missing"  # what is not there


@pytest.mark.parametrize("name", OUTPUTS)
@hazard("S10", "outputs with other names, in missing folders, over folders", "refused", "RK912")
def test_s10_other_outputs(name: str, harmless: Path) -> None:
    (harmless / "folder.safetensors").mkdir()
    before = sorted(harmless.rglob("*"))
    with raises("RK912", str(harmless / OUTPUTS[name])):
        reparamkit.save(model(), harmless / name, force=True)
    assert sorted(harmless.rglob("*")) == before


@hazard("S11", "an archive that unpacks to far more than it is", "refused", "RK910")
def test_s11_compressed_archives(harmless: Path) -> None:
    plain, bomb = harmless / "plain.pt", harmless / "bomb.pt"
    torch.save(state(), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry) + b"\0" * (8 << 20))
    assert bomb.stat().st_size < 1 << 20
    assert "is compressed" in refused(bomb, "RK910")
    load_weights(model(), plain)


@hazard("S18", "a GraphModule, whose pickle is code, is never written", "refused", "RK913")
def test_s18_what_is_written_holds_no_code(harmless: Path) -> None:
    class Extra(nn.Sequential):
        def get_extra_state(self) -> Any:
            return fx.symbolic_trace(nn.ReLU())

        def set_extra_state(self, state: Any) -> None:
            raise AssertionError

    with raises("RK913", CALL):
        reparamkit.save(Extra(nn.Conv2d(3, 4, 3)), harmless / "deploy.safetensors")
    assert list(harmless.iterdir()) == []
    converted = reparamkit.apply(model())
    assert not any(isinstance(m, fx.GraphModule) for m in converted.modules())


@hazard("S17", "paths, users, hosts and the environment in what is written", "harmless")
def test_s17_no_secrets_in_the_header(harmless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open

    monkeypatch.setenv("REPARAMKIT_TEST_TOKEN", "swordfish")
    monkeypatch.setenv("USER", "swordfish")
    source = harmless / "swordfish.pt"
    torch.save(state(), source)
    converted, report = reparamkit.apply(model(), return_report=True)
    reparamkit.save(converted, harmless / "deploy.safetensors", report, source=source)
    with safe_open(harmless / "deploy.safetensors", framework="pt") as file:
        written = json.dumps(file.metadata()) + (harmless / "recipe.yaml").read_text()
    for secret in ("swordfish", str(harmless), str(Path.home()), os.uname().nodename):
        assert secret not in written


def test_the_attacks_would_work(harmless: Path) -> None:
    """An attack that does nothing would prove nothing."""
    (harmless / "evil.pt").write_bytes(pickle.dumps(Harm()))
    pickle.loads((harmless / "evil.pt").read_bytes())
    assert (harmless / "harmed").exists()
    (harmless / "harmed").unlink()
