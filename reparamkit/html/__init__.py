"""The report as one HTML file that needs nothing else: no network, no script to be read.

render    numbers and names into the page (`page.html.jinja`)
diagram   a block before and after, as SVG
layout    where its boxes stand
ranges    what merging does to the range of weights, and to INT8
"""

from __future__ import annotations

from reparamkit.html.render import render

__all__ = ["render"]
