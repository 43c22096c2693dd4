"""What blends are worth over simulated competitions: docs/results/blend.md."""
