"""Use the layout of plates: groups of classes, assignment, repeats."""
