"""decide: which of the exact merges are made.

`chooser.py` cuts a flow into regions: `regions.py` finds the candidates, `prices.py` and `cost.py` say what they cost,
`policy.py` what pays; `outline.py` knows what is alike. Where more would merge in another order, `reorder.py` changes
it (`sums.py`, `scales.py`). Where a norm would go into several layers, `spread.py` shares it out (`shares.py`,
`addends.py`, `stacked.py`); where a scale can go on without its shift, `parted.py` parts them (`products.py`); what
both change in a flow is in `spreading.py`.
"""
