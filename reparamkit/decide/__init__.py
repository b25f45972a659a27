"""decide: which of the exact merges are made.

`chooser.py` cuts a flow into regions; `cost.py` and `policy.py` say what pays; `outline.py` knows alike blocks again.
Where more would merge in another order, `reorder.py` changes it (`sums.py`, `scales.py`); where a norm would go into
several layers, `spread.py` shares it out (`shares.py`).
"""
