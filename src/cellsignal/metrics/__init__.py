"""Metric functions: arrays in, numbers and tables out. No torch, no competition!!."""
