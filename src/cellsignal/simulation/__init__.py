"""Simulation code that the competitions share.

Cells are drawn, not copied; how much stains differ between experiments and plates is what was
measured on real plates (`calibration`), so that a split which ignores batches is as optimistic here
as there. `cells` draws, `phenotypes` says what a class does, `plates` adds the batch, `output`
writes. The simulators themselves lie in the folders of the competitions.
"""
