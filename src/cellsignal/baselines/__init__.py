"""What a trivial method scores on a config's folds, and whether a run beats it."""
