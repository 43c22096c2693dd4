"""Polite, resumable downloads over HTTP."""

from cellsignal.fetch.fetcher import Fetcher, Politeness
from cellsignal.fetch.wire import shown

__all__ = ["Fetcher", "Politeness", "shown"]
