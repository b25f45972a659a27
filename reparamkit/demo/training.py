"""Handwritten digits, and an ordinary training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED = 0
BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images of 8 x 8 pixels and what they show, split once and for all."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits() -> Digits:
    """The handwritten digits that come with scikit-learn; a fifth is for testing."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=SEED)
    train_x, test_x, train_y, test_y = (torch.tensor(part) for part in split)
    return Digits(_image(train_x), train_y.long(), _image(test_x), test_y.long())


def _image(rows: Tensor) -> Tensor:
    return (rows.float() / 8 - 1).reshape(-1, 1, 8, 8)  # 0 .. 16 becomes -1 .. 1


def train(model: nn.Module, data: Digits, epochs: int, progress: Callable[[str], None]) -> nn.Module:
    """Train `model` and put it in eval mode; the caller's random state is kept.

    Args:
        model: is trained from the weights it has.
        data: to train on.
        epochs: how often each image is seen.
        progress: gets a line now and then.

    Returns:
        The model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        steps = epochs * -(-len(data.train_y) // BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
        model.train()
        for epoch in range(1, epochs + 1):
            loss = _epoch(model, data, optimizer, schedule)
            if epoch in (1, epochs) or epoch % 5 == 0:
                progress(f"epoch {epoch}: loss {loss:.4f}")
    return model.eval().requires_grad_(False)


def _epoch(
    model: nn.Module,
    data: Digits,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    total = 0.0
    for rows in torch.randperm(len(data.train_y)).split(BATCH):
        loss = nn.functional.cross_entropy(model(data.train_x[rows]), data.train_y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(rows)
    return total / len(data.train_y)
