"""Search settings of a config, and measure again what the best of them gain."""
