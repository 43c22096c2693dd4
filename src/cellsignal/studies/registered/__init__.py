"""The list of the studies whose folder holds their own parser."""
