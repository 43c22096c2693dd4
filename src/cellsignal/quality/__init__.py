"""How good the images of plates are: focus, light, cells, positions, controls."""
