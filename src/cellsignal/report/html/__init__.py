"""Pages of one HTML file each: the report of runs, and a look at data before any training."""
