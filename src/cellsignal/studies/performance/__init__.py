"""Measure reading, feeding, training and post-processing: docs/results/performance.md."""
