"""Measure the protocols on real CellProfiler profiles: docs/results/profiles.md."""
