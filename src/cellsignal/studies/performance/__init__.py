"""Measure the speed of reading, feeding, training and post-processing: docs/results/performance.md."""
