"""A look at a data set before any training: one page."""
