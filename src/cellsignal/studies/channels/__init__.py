"""Is one network of stains worth as much as a network for each data set?"""
