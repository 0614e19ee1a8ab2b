"""Many machines: the parts of videos are made by the workers of a Ray cluster, and joined here.

`spread.py` runs here: it opens jobs, cuts them into parts and joins these. `cluster.py` keeps the workers busy, and
`worker.py` is what runs on them.
"""
