"""Benchmarks: speed is measured here and reported, never asserted by a test."""
