"""Run trainings on rented and shared machines, and estimate what a config costs there.

SkyPilot task files, torchrun on several nodes, a Slurm script, a table of GPUs and prices.
"""
