"""What self-supervised pretraining is worth with few labels: docs/results/pretraining.md."""
