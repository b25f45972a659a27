"""report: what was merged, what was refused and why, in text, as plain data and as JSON."""

from reparamkit.report.report import Report

__all__ = ["Report"]
