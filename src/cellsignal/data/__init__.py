"""From image files to arrays a model can eat: verify, pack into a store, normalise, augment, batch.

`verify`, `pack`, `store` and `normalization` work without torch; only the datasets need it.
"""
