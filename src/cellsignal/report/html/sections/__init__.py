"""The sections of a run's report: a new one is a module here and a line in `registry.SECTIONS`.

A section is a function of a `RunView` that returns HTML, or None where it does not apply. What it
cannot show yet it raises as `InputError`: the page then has that line in place of the part.
"""
