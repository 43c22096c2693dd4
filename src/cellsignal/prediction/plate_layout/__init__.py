"""What the layout of a plate says of its wells: groups of classes, assignment, repeats."""
