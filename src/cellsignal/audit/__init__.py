"""The leak audit: is what a score is measured on really unseen? See docs/audit.md."""
