"""Deploy models in other forms: `torch.export` programs and ONNX files, compared with the original.

program   torch.export with a free batch and size
onnx      an ONNX file, its operator counts, and what another runtime makes of it
"""

from __future__ import annotations

from reparamkit.export.onnx import Exported, export_onnx, node_counts
from reparamkit.export.program import export_program
from reparamkit.export.runtime import RuntimeModule

__all__ = ["Exported", "RuntimeModule", "export_onnx", "export_program", "node_counts"]
