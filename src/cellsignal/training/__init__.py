"""Training: stages over folds, resumable to the bit."""
