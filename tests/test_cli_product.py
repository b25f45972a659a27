"""The commands around `apply`: verify, explain, recipes check and init, and what all of them have in common."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import reparamkit
from reparamkit.catalogue import catalogue, entry
from reparamkit.cli.app import app
from reparamkit.example import example_input
from reparamkit.model_source import ModelSourceError, load_model
from reparamkit.recipe import load_recipe
from tests import blocks
from tests.helpers import randomize


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


BLOCK = "tests.blocks:RepVGGBlock"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.save(randomize(blocks.RepVGGBlock()).state_dict(), tmp_path / "train.pt")
    return tmp_path / "train.pt"


class TestVerify:
    def test_a_deploy_checkpoint_against_its_training_weights(self, trained: Path, tmp_path: Path) -> None:
        deploy = tmp_path / "deploy.safetensors"
        assert invoke("apply", "-m", BLOCK, "-w", trained, "-o", deploy).exit_code == 0
        result = invoke("verify", "-m", BLOCK, "-w", trained, deploy, "--input", "2x8x9x7", "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert 0 < found["error"] <= found["allowed"]
        assert found["runs"] == 3

    def test_1_when_the_weights_are_others(self, trained: Path, tmp_path: Path) -> None:
        deploy = tmp_path / "deploy.safetensors"
        assert invoke("apply", "-m", BLOCK, "-w", trained, "-o", deploy).exit_code == 0
        weights = load_file(deploy)
        weights["reparam.weight"][0, 0, 0, 0] += 0.5
        save_file(weights, deploy)
        result = invoke("verify", "-m", BLOCK, "-w", trained, deploy, "-r", "auto", "-i", "2x8x9x7")
        assert result.exit_code == 1
        assert "RK901" in result.stderr

    @pytest.mark.zoo
    def test_a_model_without_weights_is_the_same_each_time(self, tmp_path: Path) -> None:
        pytest.importorskip("torchvision")
        spec, deploy = "torchvision:shufflenet_v2_x0_5", tmp_path / "deploy.safetensors"
        torch.manual_seed(1)
        made = invoke("apply", "-m", spec, "-o", deploy)
        assert (made.exit_code, "no --weights" in made.stderr) == (0, True)
        torch.manual_seed(2)
        drawn = torch.rand(1)
        torch.manual_seed(2)
        compared = invoke("verify", "-m", spec, deploy, "-i", "1x3x64x64", "--runs", "1")
        assert (compared.exit_code, "no --weights" in compared.stderr) == (0, True), compared.output
        assert torch.equal(torch.rand(1), drawn), "the caller's own random numbers are not disturbed"
        assert "no --weights" not in invoke("-q", "verify", "-m", spec, deploy, "-i", "1x3x64x64").stderr
        assert "no --weights" not in invoke("plan", "-m", spec).stderr

    @pytest.mark.parametrize(("shape", "said"), [("3,224", "RK104"), ("0x8", "RK104")])
    def test_2_for_a_shape_that_is_none(self, trained: Path, tmp_path: Path, shape: str, said: str) -> None:
        deploy = tmp_path / "deploy.safetensors"
        assert invoke("apply", "-m", BLOCK, "-w", trained, "-o", deploy).exit_code == 0
        result = invoke("verify", "-m", BLOCK, deploy, "-i", shape)
        assert result.exit_code == 2
        assert said in result.stderr


def rows() -> nn.Module:
    """A norm that is read only with an example: of two axes or of three."""
    return randomize(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))


class TestInputOption:
    def test_it_says_the_rank_and_compares_whole_models(self, tmp_path: Path) -> None:
        spec, file = f"{__name__}:rows", tmp_path / "m.safetensors"
        assert invoke("plan", "-m", spec).exit_code == 3
        assert invoke("plan", "-m", spec, "--input", "2x4").exit_code == 0
        result = invoke("apply", "-m", spec, "--input", "2x4", "-o", file)
        assert result.exit_code == 0, result.output
        assert "whole model: error" in result.stdout
        assert invoke("verify", "-m", spec, file, "--input", "5x4").exit_code == 0

    def test_one_that_the_model_cannot_take(self) -> None:
        result = invoke("apply", "-m", BLOCK, "--input", "2x8")
        assert result.exit_code == 2
        assert "RK" in result.stderr


class TestApplyOutput:
    def test_recipe_beside_the_weights(self, tmp_path: Path) -> None:
        assert invoke("apply", "-m", BLOCK, "-r", "repvgg", "-o", tmp_path / "deploy.safetensors").exit_code == 0
        assert load_recipe(tmp_path / "recipe.yaml").name == "repvgg"
        assert "rbr_reparam.weight" in load_file(tmp_path / "deploy.safetensors")

    def test_a_foreign_recipe_in_the_folder_is_kept_and_nothing_computed(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text("mine", encoding="utf-8")
        result = invoke("apply", "-m", BLOCK, "-o", tmp_path / "deploy.safetensors")
        assert result.exit_code == 2
        assert "RK912" in result.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


class TestRecipes:
    def test_schema_is_the_shipped_one(self) -> None:
        shipped = Path(reparamkit.__file__).parent.parent / "recipes" / "schema.json"
        assert json.loads(invoke("recipes", "schema").stdout) == json.loads(shipped.read_text(encoding="utf-8"))

    def test_list_in_json(self) -> None:
        names = {row["name"] for row in json.loads(invoke("recipes", "list", "--json").stdout)}
        assert {"auto", "repvgg", "yolo"} <= names

    def test_check_says_what_each_block_matches(self) -> None:
        rows = json.loads(invoke("recipes", "check", "repvgg", "-m", BLOCK, "--json").stdout)
        assert [row["block"] for row in rows if row["modules"]] == [row["block"] for row in rows if row["merges"]]
        [matched] = [row for row in rows if row["modules"]]
        assert (matched["match"], matched["modules"], matched["merges"]) == ("class: *RepVGGBlock*", 1, 1)
        assert invoke("recipes", "check", "repvgg").exit_code == 0

    def test_check_3_when_a_block_matches_nothing(self, tmp_path: Path) -> None:
        text = "version: 1\nname: x\nblocks: [{match: {class: Nothing}}, {match: {class: '*RepVGGBlock'}}]\n"
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        result = invoke("recipes", "check", tmp_path / "r.yaml", "-m", BLOCK)
        assert result.exit_code == 3
        assert "not optional" in result.stderr

    def test_check_2_with_line_and_column(self, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text("version: 1\nname: bad\nblocs: []\n", encoding="utf-8")
        result = invoke("recipes", "check", tmp_path / "bad.yaml")
        assert result.exit_code == 2
        assert "bad.yaml:3:1" in result.stderr

    def test_init_writes_a_recipe_that_merges_the_same(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        assert invoke("recipes", "init", "-m", BLOCK, "-o", file).exit_code == 0
        recipe = load_recipe(file)
        assert recipe.blocks[0].match.class_ == "tests.blocks.RepVGGBlock"
        assert recipe.blocks[0].expect is not None
        assert recipe.blocks[0].expect.convs == 1
        schema = tmp_path / file.read_text(encoding="utf-8").partition("\n")[0].partition("$schema=")[2]
        assert json.loads(schema.read_text(encoding="utf-8")) == json.loads(invoke("recipes", "schema").stdout)
        assert invoke("recipes", "init", "-m", BLOCK, "-o", file).exit_code == 2
        assert invoke("recipes", "init", "-m", BLOCK, "-o", tmp_path / "other.yaml").exit_code == 0
        schema.write_text("{}", encoding="utf-8")
        refused = invoke("recipes", "init", "-m", BLOCK, "-o", tmp_path / "third.yaml")
        assert (refused.exit_code, "RK912" in refused.stderr) == (2, True), "somebody's own file is not replaced"
        assert not (tmp_path / "third.yaml").exists()
        assert invoke("apply", "-m", BLOCK, "-r", file).exit_code == 0

    @pytest.mark.zoo
    @pytest.mark.parametrize("spec", ["timm:fastvit_t8", "timm:repghostnet_100", "ultralytics:yolov9t.yaml"])
    def test_init_for_whole_models(self, spec: str) -> None:
        pytest.importorskip(spec.partition(":")[0])
        model = load_model(spec)
        text = invoke("recipes", "init", "-m", spec).stdout
        with_it, without = reparamkit.plan(model, text), reparamkit.plan(model)
        assert len(with_it.edits) == len(without.edits)
        reparamkit.apply(model, text, verify=False)


class TestExplain:
    @pytest.mark.parametrize("code", ["RK312", "rk312", "312"])
    def test_one_code(self, code: str) -> None:
        result = invoke("explain", code)
        assert result.exit_code == 0
        assert "padding_mode differs" in result.stdout
        assert entry("RK312").do in result.stdout.replace("\n", " ")

    def test_all_codes(self) -> None:
        assert {row["code"] for row in json.loads(invoke("explain", "--json").stdout)} == set(catalogue())

    def test_unknown_code_is_usage(self) -> None:
        result = invoke("explain", "RK31")
        assert result.exit_code == 2
        assert "RK310" in result.stderr

    def test_every_code_is_explained_and_every_explanation_has_a_code(self) -> None:
        from importlib.resources import files

        import yaml

        words = yaml.safe_load((files("reparamkit") / "catalogue.yaml").read_text(encoding="utf-8"))
        assert set(words) == set(catalogue())
        assert not [e.code for e in catalogue().values() if not (e.means and e.do)]


def plain_layer() -> nn.Module:
    """For `expand`."""
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())


SMALL = ("--input", "1x8x9x8")
JSON: dict[str, tuple[str, ...]] = {
    "plan": ("-m", BLOCK),
    "apply": ("-m", BLOCK, *SMALL),
    "expand": ("-m", f"{__name__}:plain_layer", "-r", "dbb"),
    "verify": ("-m", BLOCK, "deploy.safetensors", "-w", "train.safetensors", *SMALL),
    "bench": ("-m", BLOCK, "--rounds", "2", *SMALL),
    "report": ("-m", BLOCK, *SMALL),
    "export": ("-m", BLOCK, "-o", "deploy.onnx", *SMALL),
    "recipes list": (),
    "recipes check": ("repvgg", "-m", BLOCK),
    "rules": (),
    "plugins": ("--all",),
    "explain": ("RK312",),
}


def commands_with(option: str) -> set[str]:
    import typer.main

    def below(group: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            yield f"{path} {name}".strip(), command
            yield from below(command, f"{path} {name}") if hasattr(command, "commands") else ()

    found = below(typer.main.get_command(app), "")
    return {path for path, command in found if any(option in p.opts for p in command.params)}


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


class TestJson:
    def test_no_command_is_forgotten(self) -> None:
        assert {path.strip() for path in commands_with("--json")} == set(JSON)

    @pytest.mark.parametrize("command", JSON)
    def test_it_parses(self, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for package in {"export": ("onnx", "onnxscript", "onnxruntime"), "report": ("jinja2",)}.get(command, ()):
            pytest.importorskip(package)
        monkeypatch.chdir(tmp_path)
        if command == "verify":
            save_file(randomize(blocks.RepVGGBlock()).state_dict(), "train.safetensors")
            assert invoke("apply", "-m", BLOCK, "-w", "train.safetensors", "-o", "deploy.safetensors").exit_code == 0
        result = invoke(*command.split(), *JSON[command], "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout, parse_constant=refuse_constant)


class TestEverywhere:
    def test_quiet_prints_nothing_but_json(self) -> None:
        assert invoke("-q", "plan", "-m", BLOCK).stdout == ""
        assert invoke("plan", "-m", BLOCK, "--quiet").stdout == ""
        assert json.loads(invoke("-q", "plan", "-m", BLOCK, "--json").stdout)["merged"]
        assert invoke("plan", "-m", BLOCK).stdout != ""

    def test_verbose_says_what_the_library_does(self) -> None:
        assert "merges planned" in invoke("-v", "apply", "-m", BLOCK).stderr
        assert "merges planned" in invoke("apply", "-m", BLOCK, "-v").stderr
        assert "merges planned" not in invoke("apply", "-m", BLOCK).stderr

    @pytest.mark.parametrize(
        ("command", "what"),
        [
            ("apply", "proving"),
            ("bench --rounds 2", "timing, eager"),
            ("report --force", "proving"),
            ("verify d.safetensors", "comparing"),
        ],
    )
    def test_a_bar_moves_where_somebody_sees_it(
        self, command: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from rich.console import Console

        from reparamkit.cli import screen

        monkeypatch.chdir(tmp_path)
        if "verify" in command:
            deploy, report = reparamkit.apply(load_model(BLOCK), return_report=True)
            reparamkit.save(deploy, "d.safetensors", report)
        seen: dict[bool, str] = {}
        for terminal in (True, False):
            file = io.StringIO()
            monkeypatch.setattr(screen, "Console", lambda f=file, t=terminal, **_: Console(file=f, force_terminal=t))
            assert invoke(*command.split(), "-m", BLOCK, "-i", "1x8x8x8").exit_code == 0
            seen[terminal] = file.getvalue()
        assert what in seen[True]
        assert what not in seen[False]

    def test_rules_in_json(self) -> None:
        assert "core/conv_bn" in {row["rule"] for row in json.loads(invoke("rules", "--json").stdout)}

    @pytest.mark.parametrize(
        "command", ["explain", "rules", "recipes", f"recipes check repvgg -m {BLOCK}", f"bench -m {BLOCK} --rounds 2"]
    )
    def test_a_table_in_a_pipe_is_a_line_a_row_with_no_blanks_behind_it(self, command: str) -> None:
        result = invoke(*command.split(), *(["-i", "1x8x8x8"] if "bench" in command else []))
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert all(line == line.rstrip() and line for line in lines)
        begins = {re.search(r"  +(?=\S)", line).end() for line in lines[-3:]}  # type: ignore[union-attr]
        assert len(begins) == 1, "columns stand below each other"

    def test_a_table_on_a_terminal_is_fitted_to_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from rich.console import Console

        from reparamkit.cli import screen

        file = io.StringIO()
        monkeypatch.setattr(screen, "Console", lambda: Console(file=file, width=40, force_terminal=True, no_color=True))
        screen.show(("a", "b"), [("[red]x", "word " * 20)])
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in file.getvalue().splitlines()]
        assert max(map(len, lines)) == 40
        assert len(lines) > 3
        assert "[red]x" in lines[1]

    @pytest.mark.parametrize("colour", [{"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}])
    def test_no_color(self, colour: dict[str, str]) -> None:
        plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        command = [sys.executable, "-m", "reparamkit", "explain", "RK31"]
        done = subprocess.run(command, env={**plain, **colour}, capture_output=True, text=True, check=False)
        assert ("\x1b[3" in done.stderr) == ("FORCE_COLOR" in colour)

    def test_a_warning_is_one_line(self) -> None:
        code = (
            "import sys, warnings\nfrom reparamkit.cli import main\n"
            "sys.argv = ['reparamkit', '--version']\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
            "warnings.warn('plugin x could not be loaded')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr == "UserWarning: plugin x could not be loaded\n"

    def test_help_waits_for_nothing_heavy(self) -> None:
        code = (
            "import sys\nsys.argv = ['reparamkit', '--help']\nfrom reparamkit.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'numpy', 'jinja2', 'yaml', 'onnx'}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion(self, shell: str) -> None:
        environment = {**os.environ, "_REPARAMKIT_COMPLETE": f"source_{shell}"}
        command = [sys.executable, "-c", "from reparamkit.cli import main; main()"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "_REPARAMKIT_COMPLETE=complete_" in done.stdout, done


class TestHuggingFace:
    @pytest.mark.zoo
    def test_a_model_from_its_configuration(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        config.architectures = ["ResNetForImageClassification"]
        config.to_json_file(tmp_path / "config.json")
        model = load_model(f"hf:{tmp_path / 'config.json'}")
        assert type(model).__name__ == "ResNetForImageClassification"
        assert reparamkit.plan(model).edits

    @pytest.mark.zoo
    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ({"model_type": "nothing", "auto_map": {"AutoModel": "evil--evil.Model"}}, "model_type"),
            ({"auto_map": {"AutoModel": "evil--evil.Model"}}, "model_type"),
            ([], "AttributeError"),
        ],
    )
    def test_what_is_no_configuration(self, config: object, said: str, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(ModelSourceError, match=said):
            load_model(f"hf:{tmp_path / 'config.json'}")


class TestExampleInput:
    def test_shape_is_guessed_from_the_first_layer(self) -> None:
        assert example_input(blocks.RepVGGBlock()).shape == (1, 8, 224, 224)
        assert example_input(torch.nn.Sequential(torch.nn.Linear(5, 2)).double()).dtype == torch.float64
        assert example_input(torch.nn.Sequential(torch.nn.ConvTranspose2d(5, 2, 2))).shape == (1, 5, 16, 16)

    def test_no_layer_no_guess(self) -> None:
        with pytest.raises(reparamkit.ModelError, match="RK104"):
            example_input(torch.nn.ReLU())

    def test_the_callers_random_state_is_kept(self) -> None:
        block = blocks.RepVGGBlock()
        before = torch.get_rng_state()
        example_input(block, "1x8x4x4")
        assert torch.equal(torch.get_rng_state(), before)


def test_codes_in_the_sources_exist() -> None:
    package = Path(reparamkit.__file__).parent
    used = {code for file in package.rglob("*.py") for code in re.findall(r"RK\d{3}", file.read_text(encoding="utf-8"))}
    assert used <= set(catalogue())
