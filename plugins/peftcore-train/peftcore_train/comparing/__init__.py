"""Comparisons: methods by settings by seeds, in runs that do not wait for each other."""
