"""Training on rented and shared machines: SkyPilot task files, torchrun on several nodes, a Slurm
script, and what a recipe will cost.
"""
