"""Checkpoints: what was converted comes back from a file, the file says how it was made, hostile files do nothing."""

from __future__ import annotations

import copy
import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import load_file, save_file

import reparamkit
from reparamkit import CheckpointError, OutputError
from reparamkit.checkpoint.names import upstream_names
from reparamkit.recipe import load_recipe
from tests import blocks
from tests.helpers import assert_same, gap, inputs, randomize, snapshot
from tests.zoo import randomize_norms, timm_model, ultralytics_model

SHAPE = (1, 8, 7, 6)


def converted(model: nn.Module, recipe: Any = None, **options: Any) -> tuple[nn.Module, reparamkit.Report]:
    return reparamkit.apply(model, recipe, return_report=True, **options)


def trained(seed: int = 0) -> nn.Module:
    return randomize(
        nn.Sequential(blocks.RepVGGBlock(), blocks.ACBlock(), nn.ReLU(), nn.Conv2d(8, 4, 1)), seed
    ).double()


def other_model(name: str) -> nn.Module:
    """Another model of the architecture: no number of it is that of `timm_model`."""
    import timm

    torch.manual_seed(1)
    return randomize_norms(timm.create_model(name), seed=1)


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


class TestSaveAndLoad:
    def test_a_fresh_model_takes_the_deploy_weights(self, tmp_path: Path) -> None:
        model = trained()
        deploy, report = converted(model)
        reparamkit.save(deploy, tmp_path / "deploy.safetensors", report)
        fresh = trained(seed=1)
        before = snapshot(fresh)
        loaded = reparamkit.load(fresh, tmp_path / "deploy.safetensors")
        assert_same(model, loaded, SHAPE)
        assert snapshot(fresh)["state"] == before["state"]
        assert {type(m).__name__ for m in loaded.modules()} == {type(m).__name__ for m in deploy.modules()}

    def test_what_merges_by_its_numbers_is_not_guessed_from_a_fresh_model(self, tmp_path: Path) -> None:
        """A fresh batch norm shifts by nothing: a padded convolution behind it would merge. A trained one does."""

        def build() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
            ).eval()

        model = randomize(build()).double()
        deploy, report = converted(model)
        assert sum(isinstance(m, nn.Conv2d) for m in deploy.modules()) == 2
        assert sum(isinstance(m, nn.Conv2d) for m in reparamkit.apply(build(), policy="always").modules()) == 1
        reparamkit.save(deploy, tmp_path / "deploy.safetensors", report)
        assert_same(model, reparamkit.load(build().double(), tmp_path / "deploy.safetensors"), SHAPE)

    def test_a_model_stored_with_the_numbers_it_starts_with(self, tmp_path: Path) -> None:
        model = nn.Sequential(
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        ).eval()
        deploy, report = converted(model.double(), policy="always")
        assert sum(isinstance(m, nn.Conv2d) for m in deploy.modules()) == 1
        reparamkit.save(deploy, tmp_path / "deploy.safetensors", report)
        assert_same(model, reparamkit.load(model, tmp_path / "deploy.safetensors"), SHAPE)

    def test_metadata_says_how_it_was_made_and_nothing_else(self, tmp_path: Path) -> None:
        torch.save(trained().state_dict(), tmp_path / "train.pt")
        deploy, report = converted(trained(), "repvgg", policy="always")
        reparamkit.save(deploy, tmp_path / "deploy.safetensors", report, source=tmp_path / "train.pt")
        found = metadata(tmp_path / "deploy.safetensors")
        assert set(found) == {
            "format",
            "reparamkit.version",
            "reparamkit.torch",
            "reparamkit.recipe",
            "reparamkit.recipe_sha256",
            "reparamkit.source_sha256",
        }
        assert load_recipe(json.loads(found["reparamkit.recipe"])) == report.spec
        assert json.loads(found["reparamkit.recipe"])["policy"] == "always"
        assert str(tmp_path) not in "".join(found.values())

    def test_the_recipe_lies_beside_it(self, tmp_path: Path) -> None:
        deploy, report = converted(trained(), "repvgg")
        reparamkit.save(deploy, tmp_path / "deploy.safetensors", report)
        assert load_recipe(tmp_path / "recipe.yaml") == report.spec
        reparamkit.save(deploy, tmp_path / "second.safetensors", report)  # the same recipe is there: nothing to ask
        (tmp_path / "recipe.yaml").write_text("mine", encoding="utf-8")
        with pytest.raises(OutputError, match="RK912"):
            reparamkit.save(deploy, tmp_path / "third.safetensors", report)
        assert not (tmp_path / "third.safetensors").exists()
        reparamkit.save(deploy, tmp_path / "third.safetensors", report, force=True)
        assert load_recipe(tmp_path / "recipe.yaml") == report.spec

    def test_existing_files_need_force(self, tmp_path: Path) -> None:
        file = tmp_path / "deploy.safetensors"
        file.write_text("mine", encoding="utf-8")
        deploy, report = converted(trained())
        with pytest.raises(OutputError, match="force"):
            reparamkit.save(deploy, file, report)
        assert file.read_text(encoding="utf-8") == "mine"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["deploy.safetensors"]

    def test_a_link_is_replaced_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("mine", encoding="utf-8")
        (tmp_path / "deploy.safetensors").symlink_to(tmp_path / "precious")
        deploy, report = converted(trained())
        reparamkit.save(deploy, tmp_path / "deploy.safetensors", report, force=True)
        assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"
        assert load_file(tmp_path / "deploy.safetensors").keys() == deploy.state_dict().keys()

    def test_shared_tensors_and_views_come_back(self, tmp_path: Path) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
                self.b.weight = self.a.weight
                whole = torch.randn(4, 6)
                self.register_buffer("part", whole[1:3])
                self.register_buffer("other", whole[:2])

        model = Tied().eval()
        reparamkit.save(model, tmp_path / "m.safetensors")
        assert "b.weight" not in load_file(tmp_path / "m.safetensors")
        other = Tied().eval()
        reparamkit.load_weights(other, tmp_path / "m.safetensors")
        assert all(torch.equal(t, model.state_dict()[k]) for k, t in other.state_dict().items())
        # The file of a view holds the view, not all that it looks at.
        assert (tmp_path / "m.safetensors").stat().st_size < 2000

    def test_channels_last_survives(self, tmp_path: Path) -> None:
        model = trained().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        deploy, report = converted(model)
        reparamkit.save(deploy, tmp_path / "m.safetensors", report)
        loaded = reparamkit.load(trained(seed=1), tmp_path / "m.safetensors")
        assert_same(model, loaded, SHAPE)
        kernels = [p for p in loaded.parameters() if p.dim() == 4]
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)

    def test_a_file_without_a_recipe_needs_one(self, tmp_path: Path) -> None:
        deploy, _ = converted(trained())
        reparamkit.save(deploy, tmp_path / "m.safetensors")
        assert not (tmp_path / "recipe.yaml").exists()
        with pytest.raises(CheckpointError, match=r"RK910.*recipe="):
            reparamkit.load(trained(), tmp_path / "m.safetensors")
        assert_same(deploy, reparamkit.load(trained(1), tmp_path / "m.safetensors", recipe="auto"), SHAPE)

    def test_what_was_learned_from_an_example_is_known_to_the_file(self, tmp_path: Path) -> None:
        def build(seed: int = 0) -> nn.Module:
            return randomize(nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)), seed).double()

        model, rows, file = build(), torch.zeros(2, 4, dtype=torch.float64), tmp_path / "m.safetensors"
        deploy, report = converted(model, example_inputs=rows)
        assert report.merged
        reparamkit.save(deploy, file, report)
        assert json.loads(metadata(file)["reparamkit.example_inputs"]) == {"shape": [2, 4], "dtype": "float64"}
        assert_same(model, reparamkit.load(build(1), file), (3, 4))
        assert_same(model, reparamkit.load(build(1), file, example_inputs=rows), (3, 4))
        with pytest.raises(CheckpointError, match="RK911"):  # as images of one axis, the norm is of another axis
            reparamkit.load(build(1), file, example_inputs=torch.zeros(2, 4, 4, dtype=torch.float64))

    def test_weights_are_converted_like_those_of_a_file(self, tmp_path: Path) -> None:
        def build(seed: int = 0) -> nn.Module:
            return randomize(nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)), seed).double()

        model, file = build(), tmp_path / "m.safetensors"
        deploy, report = converted(model, "fold_bn", example_inputs=torch.zeros(2, 4, dtype=torch.float64))
        reparamkit.save(deploy, file, report)
        average = build(1).state_dict()
        weights = reparamkit.convert_state_dict(model, average, like=file)
        deploy.load_state_dict(weights, strict=True)
        assert_same(build(1), deploy, (3, 4))
        assert len(reparamkit.convert_state_dict(model, average)) > len(weights)  # without it, nobody knows

    def test_another_model_is_told_what_differs(self, tmp_path: Path) -> None:
        deploy, report = converted(trained())
        reparamkit.save(deploy, tmp_path / "m.safetensors", report)
        other = nn.Sequential(blocks.RepVGGBlock(), nn.Conv2d(8, 4, 3)).eval()
        with pytest.raises(CheckpointError, match=r"RK911.*missing.*unexpected"):
            reparamkit.load(other, tmp_path / "m.safetensors")

    def test_state_that_is_no_tensor_cannot_be_stored(self, tmp_path: Path) -> None:
        class Extra(nn.Conv2d):
            def get_extra_state(self) -> Any:
                return {"a": 1}

            def set_extra_state(self, state: Any) -> None: ...

        with pytest.raises(CheckpointError, match=r"RK913.*_extra_state"):
            reparamkit.save(Extra(1, 1, 1), tmp_path / "m.safetensors")
        assert not list(tmp_path.iterdir())


class TestKeyMap:
    def test_every_old_key_and_every_new_one(self) -> None:
        deploy, report = converted(trained())
        assert list(report.key_map) == list(trained().state_dict())
        assert {k for new in report.key_map.values() for k in new} == set(deploy.state_dict())
        assert report.key_map["0.rbr_dense.conv.weight"] == ("0.reparam.weight", "0.reparam.bias")
        assert report.key_map["0.rbr_1x1.bn.running_mean"] == ("0.reparam.weight", "0.reparam.bias")
        assert report.key_map["0.rbr_dense.bn.num_batches_tracked"] == ()
        assert report.key_map["3.weight"] == ("3.weight",)

    def test_folded_in_place(self) -> None:
        _, report = converted(randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
        assert report.key_map["0.weight"] == ("0.weight", "0.bias")
        assert report.key_map["1.running_var"] == ("0.weight", "0.bias")

    @pytest.mark.zoo
    @pytest.mark.parametrize("name", ["repvgg_a0", "fastvit_t8", "repvit_m1", "repghostnet_100"])
    def test_numbers_depend_on_what_the_map_says(self, name: str) -> None:
        pytest.importorskip("timm")
        model = timm_model(name)
        deploy, report = converted(model)
        assert {k for new in report.key_map.values() for k in new} == set(deploy.state_dict())
        lost = [k for k, new in report.key_map.items() if not new and not k.endswith("num_batches_tracked")]
        assert lost == []
        old = next(k for k, new in report.key_map.items() if new and new != (k,))
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.state_dict()[old].mul_(1.5)
        again = reparamkit.apply(changed).state_dict()
        moved = {k for k, t in deploy.state_dict().items() if not torch.equal(t, again[k])}
        assert moved
        assert moved <= set(report.key_map[old])


class TestConvertStateDict:
    def test_averaged_weights_become_deploy_weights(self) -> None:
        model, average = trained(0), trained(1)
        weights = reparamkit.convert_state_dict(model, average.state_dict())
        deploy = reparamkit.apply(model)
        deploy.load_state_dict(weights, strict=True)
        assert_same(average, deploy, SHAPE)

    def test_what_does_not_fit_is_said(self) -> None:
        state = trained().state_dict()
        state.pop("0.rbr_dense.conv.weight")
        with pytest.raises(CheckpointError, match=r"RK911.*missing: 0.rbr_dense.conv.weight"):
            reparamkit.convert_state_dict(trained(), state)

    def test_the_model_is_not_touched(self) -> None:
        model = trained(0)
        before = {k: t.clone() for k, t in model.state_dict().items()}
        reparamkit.convert_state_dict(model, trained(1).state_dict())
        assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


class TestUndo:
    @pytest.mark.parametrize("build", [trained, lambda: randomize(blocks.RepVGGBlock()).double()])
    def test_in_place_and_back_is_bit_for_bit(self, build: Callable[[], nn.Module]) -> None:
        model = build()
        before = snapshot(model)
        _, report = converted(model, inplace=True, keep_original=True)
        assert report.merged
        assert list(model.state_dict()) != before["keys"]
        report.undo()
        after = snapshot(model)
        assert after["keys"] == before["keys"]
        assert after["modules"] == before["modules"]
        assert after["tensors"] == before["tensors"]
        with pytest.raises(reparamkit.ModelError, match="RK111"):
            report.undo()

    def test_a_copy_becomes_a_copy_of_the_original(self) -> None:
        model = trained()
        deploy, report = converted(model, keep_original=True)
        report.undo()
        assert all(torch.equal(t, model.state_dict()[k]) for k, t in deploy.state_dict().items())
        assert list(deploy.state_dict()) == list(model.state_dict())
        assert_same(model, deploy, SHAPE)

    def test_nothing_was_kept(self) -> None:
        _, report = converted(trained())
        with pytest.raises(reparamkit.ModelError, match=r"RK111.*keep_original"):
            report.undo()


def in_docs() -> dict[str, str]:
    """The recipes that docs/checkpoints.md shows, by name."""
    page = (Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    return {load_recipe(text).name: text for text in re.findall(r"^```yaml\n(.*?)^```$", page, re.M | re.S)}


def maps(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What the last block in front of the detection head gives."""
    seen: list[torch.Tensor] = []
    *_, body, _ = model.model  # type: ignore[misc, union-attr]
    hook = body.register_forward_hook(lambda module, args, out: seen.append(out))
    model(x)
    hook.remove()
    return seen


class TestUpstreamNames:
    def test_stars_stand_for_the_same_text(self) -> None:
        names = upstream_names(["a.b.c.weight", "c.bias", "head.reparam.bias"], {"*.c.*": "*.*", "*.reparam.*": "*.*"})
        assert names == {"a.b.c.weight": "a.b.weight", "c.bias": "c.bias", "head.reparam.bias": "head.bias"}

    def test_two_keys_never_get_one_name(self) -> None:
        with pytest.raises(CheckpointError, match="RK913"):
            upstream_names(["a.c.weight", "a.weight"], {"*.c.*": "*.*"})

    @pytest.mark.parametrize("names", ["{'*.c.*': '*'}", "{'': ''}", "{'*.*.*.*.*': '*.*.*.*.*'}"])
    def test_wrong_templates_are_refused(self, names: str) -> None:
        text = f"version: 1\nname: x\nblocks: [{{match: {{structure: any}}}}]\ndeploy_names: {names}\n"
        with pytest.raises(reparamkit.RecipeError, match=r"RK704.*stars|stars"):
            load_recipe(text)

    @pytest.mark.zoo
    @pytest.mark.parametrize(
        ("name", "recipe"),
        [
            ("repvgg_a0", "repvgg"),
            ("mobileone_s0", "mobileone"),
            ("mobileone_s1", "mobileone"),
            ("repvit_m1", "repvit"),
            ("fastvit_t8", "fastvit-as-upstream"),
            ("repghostnet_100", "repghost-as-upstream"),
        ],
    )
    def test_files_load_into_the_upstream_deploy_class(self, name: str, recipe: str, tmp_path: Path) -> None:
        """timm's own converter makes the deploy class from a model that never saw reparamkit."""
        pytest.importorskip("timm")
        from timm.utils.model import reparameterize_model

        model = timm_model(name)
        deploy, report = converted(model, in_docs().get(recipe, recipe))
        reparamkit.save(deploy, tmp_path / "deploy.safetensors", report, upstream_names=True)
        theirs = reparameterize_model(other_model(name))
        theirs.load_state_dict(load_file(tmp_path / "deploy.safetensors"), strict=True)
        x = inputs((1, 3, 64, 64), dtype=torch.float32)
        with torch.no_grad():
            assert gap(model(x), theirs(x)) < 1e-3
            assert gap(model(x), reparameterize_model(other_model(name))(x)) > 1e-2
        again = reparamkit.load(other_model(name), tmp_path / "deploy.safetensors")
        assert all(torch.equal(t, deploy.state_dict()[k]) for k, t in again.state_dict().items())

    @pytest.mark.zoo
    @pytest.mark.parametrize("name", ["yolov6n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "rtdetr-l"])
    def test_weights_load_into_what_ultralytics_fuses(self, name: str) -> None:
        pytest.importorskip("ultralytics")
        model, other = ultralytics_model(name), randomize_norms(ultralytics_model(name), seed=1)
        recipe = in_docs()["rtdetr-as-upstream"] if name == "rtdetr-l" else "yolo"
        weights = reparamkit.apply(model, recipe).state_dict()
        theirs = other.fuse(verbose=False)  # type: ignore[operator]
        gone = {key for key in weights if key not in theirs.state_dict()}
        assert all(name == "yolov10n" and ".one2one_cv" in key for key in gone)
        x = inputs((1, 3, 64, 64), dtype=torch.float32)
        with torch.no_grad():
            assert gap(maps(model, x), maps(theirs, x)) > 1e-2
            theirs.load_state_dict({key: t for key, t in weights.items() if key not in gone}, strict=True)
            assert gap(maps(model, x), maps(theirs, x)) < 1e-3

    def test_without_the_report_nobody_knows_them(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="RK913"):
            reparamkit.save(trained(), tmp_path / "m.safetensors", upstream_names=True)


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pwned"),))


class TestHostileFiles:
    def test_pickles_are_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"state_dict": {"a": _Evil()}}, "evil.pt")
        Path("raw.pt").write_bytes(pickle.dumps(_Evil()))
        for file in ("evil.pt", "raw.pt"):
            with pytest.raises(CheckpointError, match="RK910"):
                reparamkit.load_weights(trained(), file)
        assert not Path("pwned").exists()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff" * 16,
            struct.pack("<Q", 1 << 40) + b"{}",
            struct.pack("<Q", 2) + b"{}" + b"x" * 8,
            struct.pack("<Q", 58) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,999999]}}',
        ],
    )
    def test_broken_safetensors(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"RK91[01]"):
            reparamkit.load_weights(trained(), tmp_path / "bad.safetensors")

    @pytest.mark.parametrize(
        "recipe", ["[]", "{", '{"version": 1}', '{"version": 1, "name": "x", "extends": "/etc/passwd"}']
    )
    def test_a_recipe_in_the_metadata_is_checked_like_any_other(self, recipe: str, tmp_path: Path) -> None:
        save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={"reparamkit.recipe": recipe})
        with pytest.raises(CheckpointError, match="RK910"):
            reparamkit.load(trained(), tmp_path / "m.safetensors")

    @pytest.mark.parametrize(
        "form", ["[]", "{", '{"shape": [1000000, 1000000], "dtype": "float32"}', '{"value": {}}', "[" * 100_000]
    )
    def test_example_inputs_in_the_metadata_are_checked(self, form: str, tmp_path: Path) -> None:
        recipe = {"version": 1, "name": "x", "blocks": [{"match": {"structure": "any"}}]}
        said = {"reparamkit.recipe": json.dumps(recipe), "reparamkit.example_inputs": form}
        save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata=said)
        with pytest.raises(CheckpointError, match=r"RK910.*example inputs"):
            reparamkit.load(trained(), tmp_path / "m.safetensors")

    def test_nothing_is_half_loaded(self, tmp_path: Path) -> None:
        model = trained()
        state = {k: torch.zeros_like(t) for k, t in model.state_dict().items()}
        state["3.weight"] = torch.zeros(1)
        save_file(state, tmp_path / "m.safetensors")
        before = {k: t.clone() for k, t in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"RK911.*3.weight"):
            reparamkit.load_weights(model, tmp_path / "m.safetensors")
        assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())
