"""Verify, pack, normalise, augment and batch images.

`verify`, `pack`, `store` and `normalization` work without torch; only the datasets need it.
"""
