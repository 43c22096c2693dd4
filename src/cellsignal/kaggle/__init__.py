"""Kaggle kernels: what a job is (`job`, `plan`), how its kernels are built (`build`, `script`),
what runs in them (`runner`, `code`), how they are pushed.
"""
