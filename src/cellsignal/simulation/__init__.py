"""Simulated plates in each competition's own file layout: for tests, demonstrations and learning
without a download.

Cells are drawn, not copied; how much stains differ between experiments and plates is what was
measured on real plates (`calibration`), so that a split which ignores batches flatters here as it
does there. `rxrx1` and `bbbc021` write the files; `cells` draws, `phenotypes` says what a class
does, `plates` adds the batch.
"""
