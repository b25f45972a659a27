"""The operations that recipes can put into branches, one idea a file.

conv      `conv`, `linear`
norm      `bn`
pool      `avgpool`
scale     `scale`, `identity`, `dropout`
filters   `sobel_x`, `sobel_y`, `laplacian`
prior     `cosine`
nest      `sum`, `pad`
"""

from __future__ import annotations

from reparamkit.branch import BranchOp
from reparamkit.expand.ops import conv, filters, nest, norm, pool, prior, scale

CORE: tuple[BranchOp, ...] = (*conv.OPS, *norm.OPS, *pool.OPS, *scale.OPS, *filters.OPS, *prior.OPS, *nest.OPS)
