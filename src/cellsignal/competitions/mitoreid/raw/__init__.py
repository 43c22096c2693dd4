"""From the microscope's fields to the clips of single cells that MitoReID is made of.

The published data are tracks already. Who has fields of an own screen,
`{drug}/{drug}_{time}_{w1|w2|w3}.tif` at 16 times, makes tracks of them here, by the published steps
(Li et al., Nat Comput Sci 2024): `process.process(root, out, library, part)`. Each step is a
module: `fields` (reading, background, blurred frames), `segment` (cells), `track` (the same cell
through time), `crops` (pictures of it).
"""
