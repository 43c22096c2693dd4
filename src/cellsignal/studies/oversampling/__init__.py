"""Measure what oversampling before the split does to a figure: docs/results/oversampling.md."""
