"""The pictures and pages of a run."""
