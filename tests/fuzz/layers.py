"""The layers of generated models, as the text that makes them."""

from __future__ import annotations

import math
import random

BATCH_NORM = "nn.BatchNorm{nd}d({c})"
KEEPING = (
    "nn.Identity()",
    "nn.ReLU()",
    "nn.ReLU(inplace=True)",
    "nn.Dropout(0.5)",
    "nn.AvgPool{nd}d(3, 1, 1)",
    "nn.AvgPool{nd}d(3, 1, 1, count_include_pad=False)",
    "nn.MaxPool{nd}d(3, 1, 1)",
    "nn.Hardswish()",
    "nn.PReLU({c})",
    "nn.GroupNorm(1, {c})",
    "nn.InstanceNorm{nd}d({c}, affine=True, track_running_stats=True)",
    "nn.Sequential()",
)
CHANGING = (
    "nn.ZeroPad{nd}d(1)",
    "nn.ReflectionPad{nd}d(1)",
    "nn.ReplicationPad{nd}d(1)",
    "nn.ConstantPad{nd}d(1, 0.5)",
    "nn.AvgPool{nd}d(3, 1)",
    "nn.AvgPool{nd}d(2)",
    "nn.AdaptiveAvgPool{nd}d(1)",
    "nn.Upsample(scale_factor=2)",
    "nn.Flatten(1)",
    "nn.Softmax(1)",
)


ACTS = ("nn.Sequential(nn.ReLU())", "nn.Sequential(nn.Identity())", "nn.Sequential()", "nn.ReLU()", "nn.Tanh()")


def conv(draw: random.Random, nd: int, channels: int, keep: bool, out: int = 0) -> str:
    """A convolution to `out` channels; with `keep` its output is as large as its input."""
    out = out or (channels if keep else draw.choice([channels, channels, 4, 6]))
    kernel = tuple(draw.choice([1, 3, 3]) for _ in range(nd)) if draw.random() < 0.3 else (draw.choice([1, 3, 3]),) * nd
    dilation = draw.choice([1, 1, 1, 1, 2])
    same = tuple(dilation * (k // 2) for k in kernel)
    padding = same if keep or draw.random() < 0.7 else tuple(draw.choice([0, 1]) for _ in range(nd))
    groups = draw.choice([1, 1, 1, *(g for g in range(2, channels + 1) if math.gcd(channels, out) % g == 0)])
    options = {
        "padding": repr("same") if padding == same and draw.random() < 0.1 else padding,
        "dilation": dilation,
        "groups": groups,
        "bias": draw.random() < 0.5,
        "padding_mode": repr(draw.choice(["zeros"] * 8 + ["reflect", "circular", "replicate"])),
    }
    if not keep and draw.random() < 0.1 and options["padding"] != "'same'":
        options["stride"] = 2
    return f"nn.Conv{nd}d({channels}, {out}, {kernel}, {_written(options)})"


def transposed(draw: random.Random, nd: int, channels: int) -> str:
    """A transposed convolution."""
    kernel = draw.choice([1, 2, 3])
    options = {
        "padding": draw.choice([0, kernel // 2]),
        "stride": draw.choice([1, 1, 2]),
        "groups": draw.choice([1, 1, channels]),
        "bias": draw.random() < 0.5,
    }
    return f"nn.ConvTranspose{nd}d({channels}, {channels}, {kernel}, {_written(options)})"


def norm(draw: random.Random, nd: int, channels: int) -> str:
    """A batch norm, now and then one that cannot be folded."""
    made = BATCH_NORM.format(nd=nd, c=channels)
    option = draw.choice([""] * 8 + ["affine=False", "eps=0.1", "momentum=None", "track_running_stats=False"])
    return f"{made[:-1]}, {option})" if option else made


def keeping(draw: random.Random, nd: int, channels: int) -> str:
    """A layer that keeps the shape."""
    kind = draw.choice(["conv", "conv", "conv", "conv norm", "conv norm", "norm", "norm conv", "other", "act"])
    if kind == "other":
        return draw.choice(KEEPING).format(nd=nd, c=channels)
    if kind == "act":
        return f"nn.Sequential({conv(draw, nd, channels, True)}, {draw.choice(KEEPING[:5]).format(nd=nd, c=channels)})"
    parts = [conv(draw, nd, channels, True) if p == "conv" else norm(draw, nd, channels) for p in kind.split()]
    return parts[0] if len(parts) == 1 else f"nn.Sequential({', '.join(parts)})"


def changing(draw: random.Random, nd: int, channels: int) -> str:
    """Any layer."""
    return draw.choice([*CHANGING, keeping(draw, nd, channels)]).format(nd=nd, c=channels)


def _written(options: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
