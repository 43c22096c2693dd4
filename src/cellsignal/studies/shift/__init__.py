"""Measure what batch effects and label shift do to methods: docs/results/shift.md."""
