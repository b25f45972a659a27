"""The plugin kit: it passes what is right, and fails what is wrong, each with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reparamkit
import reparamkit.testing as kit
from reparamkit import Lift, Scale, lifts
from reparamkit.scaffold import new_plugin
from tests import blocks


class Gain(nn.Module):
    """Cannot be traced."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = x.clone()
        for channel in range(len(self.gain)):
            out[:, channel] = x[:, channel] * self.gain[channel]
        return out


@lifts(Gain, rule="kit/gain")
def right(module: Gain, context: object) -> Scale:
    return Scale(module.gain.detach().double())


@lifts(Gain, rule="kit/gain")
def forgets(module: Gain, context: object) -> Scale:
    return Scale()


@lifts(Gain, rule="kit/gain")
def refuses(module: Gain, context: object) -> reparamkit.Refusal:
    return reparamkit.Refusal("RK310", "it is Tuesday")


@lifts(Gain, rule="kit/gain")
def writes(module: Gain, context: object) -> Scale:
    with torch.no_grad():
        module.gain += 1
    return Scale(module.gain.detach().double())


@lifts(Gain, rule="gain")
def unnamed(module: Gain, context: object) -> Scale:
    return Scale(module.gain.detach().double())


class TestCheckRule:
    @pytest.mark.parametrize("shape", [(2, 4, 7, 6), (2, 4, 9), (1, 4, 3, 4, 5)])
    def test_right(self, shape: tuple[int, ...]) -> None:
        kit.check_rule(right, lambda: Gain(4), shape)
        kit.check_rule([right], lambda: Gain(4), shape, seeds=1)

    @pytest.mark.parametrize(
        ("rule", "said"),
        [
            (forgets, r"kit/gain: .*RK901"),
            (refuses, r"kit/gain: no merge used it .*Tuesday"),
            (writes, r"kit/gain: it changes the weights"),
            (unnamed, r"'gain': expected 'plugin/name'"),
        ],
    )
    def test_wrong(self, rule: Lift, said: str) -> None:
        with pytest.raises(AssertionError, match=said):
            kit.check_rule(rule, lambda: Gain(4), (2, 4, 7, 6))


class TestAssertCollapsible:
    def test_a_block_that_does(self) -> None:
        block = blocks.RepVGGBlock()
        before = {k: t.clone() for k, t in block.state_dict().items()}
        deploy = kit.assert_collapsible(block, (2, 8, 7, 6))
        assert sum(isinstance(m, nn.Conv2d) for m in deploy.modules()) == 1
        assert all(torch.equal(t, before[k]) for k, t in block.state_dict().items())

    def test_a_block_that_does_not(self) -> None:
        block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        with pytest.raises(AssertionError, match=r"2 convolutions and 0 batch norms left(.|\n)*RK316"):
            kit.assert_collapsible(block, (2, 8, 7, 6))
        kit.assert_collapsible(block, (2, 8, 7, 6), convs=2)


class TestNumbers:
    def test_no_batch_norm_is_left_that_does_nothing(self) -> None:
        norm = kit.randomize_batch_norm(nn.BatchNorm2d(6), seed=3)
        x = torch.randn(2, 6, 4, 4)
        assert (norm(x) - x).abs().min() > 0
        assert (norm.weight < 0).any()
        assert (norm.weight > 0).any()
        assert not norm.training
        again = kit.randomize_batch_norm(nn.BatchNorm2d(6), seed=3)
        assert torch.equal(norm.running_var, again.running_var)

    def test_other_weights_keep_their_numbers_unless_told(self) -> None:
        conv = nn.Conv2d(2, 2, 1)
        before = conv.weight.clone()
        assert torch.equal(kit.randomize_batch_norm(conv).weight, before)
        assert not torch.equal(kit.randomize(conv).weight, before)


class TestRandomModel:
    @pytest.mark.parametrize("seed", range(25))
    def test_whatever_it_is_made_of_it_converts_exactly(self, seed: int) -> None:
        model = kit.random_model(seed)
        converted = reparamkit.apply(model)
        for size in ((1, 4, 9, 8), (2, 4, 12, 7)):
            assert kit.difference(model, converted, size, seed) < 1e-9

    def test_it_is_its_seed(self) -> None:
        random = torch.get_rng_state()
        first, second, other = kit.random_model(1), kit.random_model(1), kit.random_model(2)
        assert torch.equal(torch.get_rng_state(), random)
        assert str(first) == str(second) != str(other)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

    def test_there_is_something_to_merge_and_something_to_refuse(self) -> None:
        reports = [reparamkit.apply(kit.random_model(seed), return_report=True)[1] for seed in range(10)]
        assert sum(bool(r.merged) for r in reports) > 5
        assert any(r.refused for r in reports)


class TestScaffold:
    def test_tests_of_a_new_plugin_pass(self, tmp_path: Path) -> None:
        folder = new_plugin("my-layers", tmp_path)
        root = str(Path(reparamkit.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), root])}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(folder)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 passed" in done.stdout

    def test_it_is_found_once_it_is_installed(self, tmp_path: Path) -> None:
        folder = new_plugin("my-layers", tmp_path)
        info = folder / "reparamkit_my_layers-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reparamkit-my-layers\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[reparamkit]\nmy-layers = reparamkit_my_layers\n")
        root = str(Path(reparamkit.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), root])}
        environment["REPARAMKIT_LOAD_PLUGINS"] = "my-layers"
        code = (
            "from reparamkit.loading import default_registry as r; print('my-layers/shift_and_scale' in r().rule_ids)"
        )
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"

    @pytest.mark.parametrize("name", ["", "My", "a b", "../x", "core", "-a", "a--b"])
    def test_names_that_are_none(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(reparamkit.PluginError, match="RK805"):
            new_plugin(name, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_command(self, tmp_path: Path) -> None:
        pytest.importorskip("typer")
        from typer.testing import CliRunner

        from reparamkit.cli.app import app

        arguments = ["plugins", "new", "my-layers", "--into", str(tmp_path)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert (tmp_path / "reparamkit-my-layers" / "pyproject.toml").is_file()
        again = CliRunner().invoke(app, arguments)
        assert again.exit_code == 2
        assert "RK912" in again.stderr
