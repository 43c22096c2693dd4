"""What snapshots and soups of weights are worth on simulated plates: docs/results/soups.md."""
