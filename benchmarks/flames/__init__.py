"""Flame graphs: stacks of a running function, sampled, and drawn as an SVG that needs nothing else."""
