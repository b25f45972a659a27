"""prove: each replacement against what it replaces, in float64, before anything is changed.

`merge.py` proves a merge, `block.py` a block that a transform wrote anew. `reference.py` computes what the original
computes (`modules.py`, `banded.py`), `crossing.py` whether a scale may cross an activation, `samples.py` draws inputs,
`verdict.py` says whether that is near enough.
"""
