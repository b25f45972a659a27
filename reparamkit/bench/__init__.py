"""What a conversion gains: time, multiply-accumulates, parameters and memory, before and after.

compare   everything together
latency   time, in turns
memory    activations that live at the same time
engines   eager, compiled, ONNX Runtime, OpenVINO
plot      bars as SVG
"""

from __future__ import annotations

from reparamkit.bench.compare import Bench, bench
from reparamkit.bench.latency import Latency

__all__ = ["Bench", "Latency", "bench"]
