"""Make tracks of single cells, as MitoReID has them, of the microscope's fields.

The published data are tracks already. To make tracks of a screen of your own, with fields
`{drug}/{drug}_{time}_{w1|w2|w3}.tif` at 16 times, call `process.process(root, out, library, part)`.
It follows the published steps (Li et al., Nat Comput Sci 2024), a module each: `fields` (reading,
background, blurred frames), `segment` (cells), `tracks` (the same cell through time, and its
pictures).
"""
