"""Measure what the pages quote: ``python docs/measure.py`` writes docs/measured.json (needs the zoo and onnx extras).

``python docs/measure.py repvgg dbb`` measures only these recipes again.

Counts are deterministic, and a test measures some of them again. Times are of the machine that ran this.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
warnings.simplefilter("ignore")

import torch
from torch import nn

import reparamkit
from reparamkit.bench import bench
from reparamkit.bench.compare import size
from reparamkit.example import example_input
from reparamkit.html.diagram import before_and_after
from reparamkit.model_source import load_model
from reparamkit.testing import randomize_batch_norm

FILE = ROOT / "docs" / "measured.json"
# Recipe -> models, each with the shape of its input; the first gives the recipe's picture.
MODELS: dict[str, list[tuple[str, str]]] = {
    "auto": [("torchvision:resnet18", "1x3x224x224"), ("timm:efficientnet_b0", "1x3x224x224")],
    "fold_bn": [("torchvision:resnet18", "1x3x224x224"), ("torchvision:mobilenet_v2", "1x3x224x224")],
    "repvgg": [("timm:repvgg_a0", "1x3x224x224"), ("timm:repvgg_b0", "1x3x224x224")],
    "mobileone": [("timm:mobileone_s0", "1x3x224x224"), ("timm:mobileone_s1", "1x3x224x224")],
    "fastvit": [("timm:fastvit_t8", "1x3x256x256")],
    "repvit": [("timm:repvit_m1", "1x3x224x224")],
    "repghost": [("timm:repghostnet_100", "1x3x224x224")],
    "acnet": [("tests.blocks:ACBlock", "1x8x32x32")],
    "dbb": [("tests.blocks:DiverseBranchBlock", "1x8x32x32")],
    "dyrep": [("tests.published.test_dbb:DyRepWithZeros", "1x8x32x32")],
    "ecb": [("expand:ecb", "1x8x32x32")],
    "unireplknet": [("tests.blocks:DilatedReparamBlock", "1x8x32x32")],
    "ecbsr": [("tests.published.test_ecbsr:ECB", "1x8x32x32")],
    "efficientvim": [("timm:efficientvim_m1", "1x3x224x224")],
    "expandnet": [("tests.published.test_expandnet:ExpandedKernel", "1x8x32x32")],
    "ghostnetv3": [("timm:ghostnetv3_100", "1x3x224x224")],
    "iformer": [("timm:iformer_t", "1x3x224x224")],
    "levit": [("timm:levit_128s", "1x3x224x224"), ("timm:tiny_vit_5m_224", "1x3x224x224")],
    "lora": [("tests.blocks:LoRALinear", "4x8")],
    "lsnet": [("tests.published.test_repvit:LSNetRepVGGDW", "1x8x32x32")],
    "nextvit": [("timm:nextvit_small", "1x3x224x224")],
    "norm_affine": [("timm:vit_tiny_patch16_224", "1x3x224x224")],
    "ones_channel": [("tests.test_ones_channel:Bottleneck", "1x4x32x32")],
    "orepa": [("tests.published.test_orepa:RepVGGBlockOREPA", "1x8x32x32")],
    "pplcnet": [("tests.published.test_paddle:LearnableRepLayer", "1x8x32x32")],
    "ppyoloe": [("tests.published.test_paddle:PPYOLOERepVGGBlock", "1x8x32x32")],
    "probe": [("tests.test_probe:DiverseBranches", "1x4x32x32")],
    "qarepvgg": [("tests.blocks:QARepVGGBlock", "1x8x32x32")],
    "repadapter": [("tests.published.test_adapters:RepAdapter", "4x10x8")],
    "replknet": [("tests.blocks:RepLKBlock", "1x8x32x32")],
    "repnext": [("tests.blocks:RepNeXtSmall", "1x8x32x32")],
    "repoptimizer": [("tests.published.test_repvgg:LinearAddBlock", "1x8x32x32")],
    "riformer": [("tests.published.test_other_norms:RIFormerBlock", "1x8x32x32")],
    "rtdetr": [("tests.published.test_detr:VggBlock", "1x8x32x32")],
    "rtmdet": [("tests.published.test_other_norms:SharedHead", "1x8x32x32")],
    "sesr": [("tests.published.test_expandnet:SESR", "1x1x32x32")],
    "shvit": [("timm:shvit_s1", "1x3x224x224")],
    "slab": [("tests.published.test_slab:Head", "4x8")],
    "textnet": [("tests.blocks:TextNetBlock", "1x8x32x32")],
    "vanillanet": [("tests.published.test_vanillanet:VanillaBlock", "1x8x32x32")],
    "yolo": [("ultralytics:yolov9t.yaml", "1x3x320x320"), ("ultralytics:yolov10n.yaml", "1x3x320x320")],
}
TIMED = [("timm:repvgg_a0", "repvgg"), ("timm:mobileone_s0", "mobileone"), ("timm:fastvit_t8", "fastvit")]
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
_NORMS = nn.modules.batchnorm._BatchNorm


def model_of(spec: str) -> nn.Module:
    """The model, a small one with batch norms that do something; ``expand:NAME`` is a 3x3 with a recipe's branches."""
    torch.manual_seed(0)
    if spec.startswith("expand:"):
        plain = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).eval()
        return randomize_batch_norm(reparamkit.expand(plain, spec.removeprefix("expand:")))
    return randomize_batch_norm(load_model(spec)) if spec.startswith("tests.") else load_model(spec)


def example(model: nn.Module, spec: str) -> torch.Tensor | None:
    """An example, where only that says how many axes a norm gets."""
    return example_input(model, "4x8") if spec == "tests.published.test_slab:Head" else None


def counts(model: nn.Module) -> dict[str, int]:
    """Convolutions, linear layers and batch norms."""
    return {
        "convs": sum(isinstance(m, _CONVS) for m in model.modules()),
        "linears": sum(isinstance(m, nn.Linear) for m in model.modules()),
        "norms": sum(isinstance(m, _NORMS) for m in model.modules()),
    }


def measured(spec: str, recipe: str, shape: str) -> dict[str, Any]:
    """One model, before and after: counts only."""
    model = model_of(spec)
    x = example_input(model, shape)
    deploy, report = reparamkit.apply(model, recipe, example_inputs=example(model, spec), return_report=True)
    sides = {
        name: {**counts(m), **{k: getattr(size(m, x), k) for k in ("macs", "parameters", "activations")}}
        for name, m in (("before", model), ("after", deploy))
    }
    return {"model": spec, "input": shape, "merges": len(report.merged), **sides}


def picture(spec: str, recipe: str) -> tuple[str, str]:
    """The merge of most operations, drawn."""
    model = model_of(spec)
    _, report = reparamkit.apply(model, recipe, example_inputs=example(model, spec), return_report=True, verify=False)
    return before_and_after(max(report.merged, key=lambda m: len(m.graph)))


def timed(spec: str, recipe: str) -> dict[str, Any]:
    """Time in two engines; the models are those of the table."""
    model = model_of(spec)
    x = example_input(model)
    found = bench(model, reparamkit.apply(model, recipe), x, engines=["eager", "onnxruntime"], rounds=15)
    return {"model": spec, "recipe": recipe, **{k: found.to_dict()[k] for k in ("latency", "shapes", "environment")}}


def main(names: list[str]) -> None:
    """Write the file; with names of recipes, measure only these again and keep the rest, times included."""
    data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if names else {"models": {}, "pictures": {}}
    for name in names or MODELS:
        data["models"][name] = [measured(spec, name, shape) for spec, shape in MODELS[name]]
        data["pictures"][name] = picture(MODELS[name][0][0], name)
    data = {key: {name: data[key][name] for name in MODELS} for key in ("models", "pictures")} | {
        "times": data["times"] if names else [timed(spec, recipe) for spec, recipe in TIMED]
    }
    FILE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
