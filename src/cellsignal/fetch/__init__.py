"""Polite, resumable downloads over HTTP."""

from cellsignal.fetch.fetcher import Fetcher, Politeness
from cellsignal.fetch.http import redact_url

__all__ = ["Fetcher", "Politeness", "redact_url"]
