"""The command line: what it prints, what it writes, and what it tells a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("typer")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import reparamkit
from reparamkit.cli.app import app
from reparamkit.loading import build
from reparamkit.model_source import ModelSourceError, load_model

MODELS = '''
import torch
from torch import nn


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return torch.relu(self.a(x) + self.b(x))


class Refused(nn.Module):
    def __init__(self):
        super().__init__()
        self.zeros = nn.Conv2d(4, 4, 3, padding=1)
        self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.fold = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.fold(torch.relu(self.zeros(x) + self.reflect(x)))


class Odd(nn.Module):
    """Names that a terminal would obey."""

    def __init__(self):
        super().__init__()
        self.rest = nn.ModuleDict({"[red]x\\x1b[31m": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))})

    def forward(self, x):
        for module in self.rest.values():
            x = module(x)
        return x


class Separable(nn.Module):
    """Of which no way to write it is plainly less work."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.b = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return torch.relu(self.a(x) + self.b(x))


def plain():
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())


def broken():
    raise KeyError("depth")


ready = Branches()
number = 3
nested = type("Nested", (), {"make": staticmethod(Branches)})
'''


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of models, which is the current one."""
    # The name is this test's own: what one test imported must not be there for the next.
    (tmp_path / f"models_{tmp_path.name}.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def source(name: str) -> str:
    return f"models_{Path.cwd().name}:{name}"


class TestMeasured:
    """The policy `measured` times layers, so every command gives it an input; one is guessed unless it is given."""

    @pytest.mark.parametrize("arguments", [("-i", "2x4x10x12"), ()])
    def test_plan(self, arguments: tuple[str, ...]) -> None:
        result = invoke("plan", "-m", source("Separable"), "--policy", "measured", "--json", *arguments)
        found = json.loads(result.stdout)
        assert result.exit_code == (0 if found["merged"] else 3), result.output
        [question] = found["timed"]["questions"]
        where = "2x4x10x12" if arguments else "1x4x224x224"
        assert question["new"] == [f"conv 4, 3x3 padding 1 on {where}"]
        # On a busy machine neither may be the faster one: then costs decide.
        assert question["faster"] in (bool(found["merged"]), None)

    @pytest.mark.parametrize(
        "command",
        [("apply",), ("bench", "--rounds", "2"), ("report",), ("report", "--no-run"), ("export", "-o", "made.pt2")],
        ids=" ".join,
    )
    def test_the_others(self, command: tuple[str, ...], project: Path) -> None:
        (project / "mine.yaml").write_text("version: 1\nname: mine\nextends: auto\npolicy: measured\n")
        result = invoke(*command, "-m", source("Separable"), "-i", "2x4x10x12", "-r", "mine.yaml")
        assert result.exit_code in (0, 3), result.output
        assert "RK" not in result.output


class TestApply:
    def test_writes_a_checkpoint_that_computes_the_same(self, project: Path) -> None:
        model = load_model(source("Branches"))
        torch.save(model.state_dict(), project / "train.pt")
        result = invoke("apply", "-m", source("Branches"), "-w", "train.pt", "-o", "deploy.safetensors")
        assert result.exit_code == 0, result.output
        assert "wrote deploy.safetensors" in result.stdout
        weights = load_file(project / "deploy.safetensors")
        assert {k: tuple(v.shape) for k, v in weights.items()} == {"reparam.weight": (4, 4, 3, 3), "reparam.bias": (4,)}
        x = torch.randn(1, 4, 5, 6)
        after = torch.relu(nn.functional.conv2d(x, weights["reparam.weight"], weights["reparam.bias"], padding=1))
        torch.testing.assert_close(after, model(x))

    def test_reads_safetensors_and_nested_checkpoints(self, project: Path) -> None:
        state = load_model(source("Branches")).state_dict()
        save_file(state, project / "train.safetensors")
        torch.save({"epoch": 3, "state_dict": state}, project / "nested.pt")
        for file in ("train.safetensors", "nested.pt"):
            assert invoke("apply", "-m", source("Branches"), "-w", file, "-o", f"{file}.safetensors").exit_code == 0
        first, second = (load_file(f"{file}.safetensors") for file in ("train.safetensors", "nested.pt"))
        assert all(torch.equal(first[k], second[k]) for k in first)

    def test_without_output_it_only_reports(self, project: Path) -> None:
        before = sorted(project.iterdir())
        result = invoke("apply", "-m", source("Branches"))
        assert result.exit_code == 0
        assert "1 merges" in result.stdout
        assert [p for p in sorted(project.iterdir()) if p.name != "__pycache__"] == before

    def test_json_parses(self) -> None:
        result = invoke("apply", "-m", source("Branches"), "-o", "deploy.safetensors", "--json")
        report = json.loads(result.stdout)
        assert report["merged"][0]["path"] == "reparam"
        assert report["max_error"] < 1e-12

    def test_no_verify_skips_the_proof(self) -> None:
        result = invoke("apply", "-m", source("Branches"), "--json", "--no-verify")
        assert json.loads(result.stdout)["max_error"] is None

    def test_existing_file_needs_force(self, project: Path) -> None:
        target = project / "deploy.safetensors"
        target.write_text("mine", encoding="utf-8")
        refused = invoke("apply", "-m", source("Branches"), "-o", target)
        assert refused.exit_code == 2
        assert "--force" in refused.stderr
        assert target.read_text(encoding="utf-8") == "mine"
        assert invoke("apply", "-m", source("Branches"), "-o", target, "--force").exit_code == 0
        assert load_file(target)

    def test_a_failed_run_leaves_nothing_behind(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr("safetensors.torch.save_file", full)
        result = invoke("apply", "-m", source("Branches"), "-o", "deploy.safetensors")
        assert result.exit_code == 2
        assert "no space left" in result.stderr
        assert [p.name for p in project.iterdir() if "safetensors" in p.name] == []

    @pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
    def test_output_has_the_permissions_of_any_new_file(self, project: Path) -> None:
        (project / "other").touch()
        invoke("apply", "-m", source("Branches"), "-o", "deploy.safetensors")
        assert (project / "deploy.safetensors").stat().st_mode == (project / "other").stat().st_mode


class TestExitCodes:
    def test_1_verification_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(*_: object, **__: object) -> None:
            raise reparamkit.VerificationError("RK901", "off by one")

        monkeypatch.setattr(reparamkit, "apply", wrong)
        result = invoke("apply", "-m", source("Branches"), "-o", "deploy.safetensors")
        assert result.exit_code == 1
        assert "RK901" in result.stderr
        assert not Path("deploy.safetensors").exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["-m", "Branches"], "module:callable"),
            (["-m", "no_such_module:make"], "No module named"),
            (["-m", "{broken}"], "KeyError"),
            (["-m", "{missing}"], "has no attribute"),
            (["-m", "{number}"], "int"),
            (["-m", "builtins:dict"], "not an nn.Module"),
            (["-m", "{Branches}", "-r", "no_such_recipe"], "RK705"),
            (["-m", "{Branches}", "--policy", "no_such_policy"], "RK709"),
            (["-m", "{Branches}", "-o", "deploy.pt"], "safetensors"),
            (["-m", "{Branches}", "-o", "no/such/folder.safetensors"], "no such folder"),
            (["-m", "{Branches}", "-w", "no_such_file.pt"], "no_such_file.pt"),
        ],
    )
    def test_2_wrong_usage(self, arguments: list[str], said: str) -> None:
        filled = [re.sub(r"\{(\w+)\}", lambda m: source(m[1]), a) for a in arguments]
        result = invoke("apply", *filled)
        assert result.exit_code == 2
        assert said in result.stderr

    def test_2_checkpoints_that_do_not_fit(self, project: Path) -> None:
        torch.save({"a.weight": torch.zeros(1)}, project / "foreign.pt")
        torch.save([1, 2], project / "list.pt")
        torch.save(load_model(source("Branches")), project / "pickled.pt")
        (project / "text.safetensors").write_text("no", encoding="utf-8")
        for file in ("foreign.pt", "list.pt", "pickled.pt", "text.safetensors"):
            result = invoke("apply", "-m", source("Branches"), "-w", file)
            assert result.exit_code == 2, file
            assert file in result.stderr

    def test_2_bad_recipe_says_where(self, project: Path) -> None:
        (project / "bad.yaml").write_text("version: 1\nname: bad\nblocs: []\n", encoding="utf-8")
        result = invoke("plan", "-m", source("Branches"), "-r", "bad.yaml")
        assert result.exit_code == 2
        assert "bad.yaml:3:1" in result.stderr

    @pytest.mark.parametrize("command", ["apply", "plan"])
    def test_3_nothing_matched(self, command: str) -> None:
        assert invoke(command, "-m", source("plain")).exit_code == 3
        result = invoke(command, "-m", source("plain"), "-r", "repvgg")
        assert result.exit_code == 3
        assert "RK706" in result.stderr

    @pytest.mark.parametrize("command", ["bench", "report", "export -o made.pt2"])
    def test_3_and_2_under_the_commands_that_convert_on_the_way(self, command: str, project: Path) -> None:
        nothing = invoke(*command.split(), "-m", source("plain"), "-r", "repvgg")
        assert (nothing.exit_code, "RK706" in nothing.stderr) == (3, True), nothing.output
        wrong = invoke(*command.split(), "-m", source("missing"))
        assert (wrong.exit_code, "RK920" in wrong.stderr) == (2, True), wrong.output
        assert not [name for name in ("made.pt2", "report.html") if (project / name).exists()]

    def test_4_refused_under_strict(self) -> None:
        result = invoke("apply", "-m", source("Refused"), "-o", "deploy.safetensors", "--strict")
        assert result.exit_code == 4
        assert "RK312" in result.stdout
        assert not Path("deploy.safetensors").exists()
        assert invoke("apply", "-m", source("Refused"), "-o", "deploy.safetensors").exit_code == 0
        assert invoke("apply", "-m", source("Branches"), "--strict").exit_code == 0


class TestPlan:
    def test_says_what_would_be_done_and_what_not(self) -> None:
        result = invoke("plan", "-m", source("Refused"))
        assert result.exit_code == 0
        assert "fold.0" in result.stdout
        assert "RK312 padding_mode differs: zeros and reflect" in result.stdout

    def test_json_parses(self) -> None:
        plan = json.loads(invoke("plan", "-m", source("Refused"), "--json").stdout)
        assert [m["path"] for m in plan["merged"]] == ["fold.0"]
        assert "RK312" in {r["code"] for r in plan["refused"]}

    def test_names_are_printed_as_they_are_but_for_control_characters(self) -> None:
        result = invoke("plan", "-m", source("Odd"))
        assert "rest.[red]x[31m.0" in result.stdout
        assert "\x1b" not in result.stdout

    def test_messages_too(self) -> None:
        result = invoke("plan", "-m", "\x1b[31m[bold]:x")
        assert result.exit_code == 2
        assert "[bold]" in result.stderr
        assert "\x1b" not in result.stderr


class TestListings:
    def test_recipes(self) -> None:
        result = invoke("recipes")
        assert result.exit_code == 0
        assert {"auto", "repvgg", "yolo"} <= {line.partition(" ")[0] for line in result.stdout.splitlines()}

    def test_one_recipe_as_it_is_written(self) -> None:
        folder = Path(reparamkit.__file__).parent.parent / "recipes"
        shown = invoke("recipes", "show", "repvgg").stdout
        assert shown.strip() == (folder / "repvgg.yaml").read_text(encoding="utf-8").strip()
        assert invoke("recipes", "show", "no_such_recipe").exit_code == 2

    def test_recipes_of_plugins(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Mine:
            @staticmethod
            @reparamkit.hookimpl
            def reparamkit_recipes() -> list[Path]:
                return [project / "mine" / "recipes"]

        (project / "mine" / "recipes").mkdir(parents=True)
        good = "version: 1\nname: good\ndescription: Folds nothing.\nblocks: [{match: {structure: any}}]\n"
        (project / "mine" / "recipes" / "good.yaml").write_text(good, encoding="utf-8")
        (project / "mine" / "recipes" / "bad.yaml").write_text("version: [\n", encoding="utf-8")
        found = build((Mine(),))
        monkeypatch.setattr("reparamkit.cli.plugins.registry", lambda: found)
        rows = dict(line.rstrip().split(maxsplit=1) for line in invoke("recipes").stdout.splitlines())
        assert rows["Mine:good"] == "Folds nothing."
        assert "RK701" in rows["Mine:bad"]
        assert invoke("recipes", "show", "mine:good").stdout == good

    def test_rules(self) -> None:
        result = invoke("rules")
        assert result.exit_code == 0
        rows = [re.split(r"\s{2,}", line.rstrip()) for line in result.stdout.splitlines()]
        about = {row[0]: row[1:] for row in rows if row[0].startswith("core/")}
        assert about["core/sequential"] == ["core", "two convolutions in a row are one."]
        assert {"core/conv_bn", "core/kernel_padding", "core/identity_to_conv", "core/branch_sum"} <= set(about)

    def test_plugins(self) -> None:
        found = json.loads(invoke("plugins", "--all", "--json").stdout)
        assert found["plugins"][0]["plugin"] == "core"
        assert "core/conv_bn" in found["plugins"][0]["rules"]
        without = json.loads(invoke("plugins", "--json").stdout)
        assert "core" not in {p["plugin"] for p in without["plugins"]}
        assert invoke("plugins").exit_code == 0
        assert invoke("plugins", "--all").exit_code == 0

    def test_version(self) -> None:
        assert invoke("--version").stdout.strip() == reparamkit.__version__


class TestModels:
    @pytest.mark.parametrize("name", ["Branches", "ready", "nested.make"])
    def test_a_class_an_instance_and_a_nested_name(self, name: str) -> None:
        model = load_model(source(name))
        assert type(model).__name__ == "Branches"
        assert not model.training

    @pytest.mark.zoo
    @pytest.mark.parametrize(
        ("spec", "package"),
        [
            ("timm:repvgg_a0", "timm"),
            ("torchvision:resnet18", "torchvision"),
            ("ultralytics:yolov8n.yaml", "ultralytics"),
        ],
    )
    def test_zoos(self, spec: str, package: str) -> None:
        pytest.importorskip(package)
        assert isinstance(load_model(spec), nn.Module)

    def test_ultralytics_unpickles_nothing(self) -> None:
        with pytest.raises(ModelSourceError, match="YAML"):
            load_model("ultralytics:yolov8n.pt")

    def test_missing_zoo_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ModelSourceError, match=r"reparamkit\[zoo\]"):
            load_model("timm:repvgg_a0")


class TestStart:
    def test_help_in_a_process_of_its_own(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "reparamkit", "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=_environment(),
        )
        for command in ("apply", "plan", "recipes", "rules", "plugins", "demo"):
            assert command in done.stdout

    def test_torch_is_imported_late(self) -> None:
        code = "import sys, reparamkit.cli.app; print('torch' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
        )
        assert done.stdout.strip() == "False"

    @pytest.mark.parametrize("package", ["typer", "rich"])
    def test_missing_extra_says_what_to_install(self, package: str) -> None:
        code = f"import sys; sys.modules[{package!r}] = None; from reparamkit.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_environment()
        )
        assert done.returncode == 2
        assert "pip install 'reparamkit[cli]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_demo(project: Path) -> None:
    pytest.importorskip("sklearn")
    result = invoke("demo", "--epochs", "1", "-o", "out")
    assert result.exit_code == 0, result.output
    for said in ("identical predictions: 360 of 360", "the plain network again", "of a merge, in float64, relative"):
        assert said in result.stdout
    rows = {line.split("  ")[0]: line.split()[-3:] for line in map(str.strip, result.stdout.splitlines())}
    assert rows["convolutions"] == ["16", "8", "-50%"]
    assert rows["batch norms"] == ["21", "0", "-100%"]
    assert rows["test accuracy"][-1] == rows["test accuracy"][-2]
    before, after = (load_file(project / "out" / f"{name}.safetensors") for name in ("train", "deploy"))
    assert sum(v.numel() for v in after.values()) < sum(v.numel() for v in before.values())


def test_activation_memory_is_what_is_alive_at_once() -> None:
    pytest.importorskip("sklearn")
    from reparamkit.demo.measure import measured
    from reparamkit.demo.training import Digits

    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1), nn.Flatten())
    x, y = torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.long)
    # 16 positions of 4 bytes: 2 channels are read while 4 are written; later both are gone.
    assert measured(model, Digits(x, y, x, y)).activations == 16 * 4 * (2 + 4)


def _environment() -> dict[str, str]:
    root = str(Path(reparamkit.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]), "COLUMNS": "100"}
