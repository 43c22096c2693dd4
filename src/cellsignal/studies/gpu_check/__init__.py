"""Checks of all that runs on CUDA, and its speed there: docs/results/gpu.md.

Everything outside the checks themselves needs the standard library alone, so that on a bare GPU
image the script starts, says which packages are missing, and skips what needs them.
"""
