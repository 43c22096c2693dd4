"""Measure the recall of planted gene relations: docs/results/relations.md."""
