"""Anything that holds a table, as `Part`s of record batches. Knows no statistics.

`open.py` decides what an argument is; each other module reads one kind of it.
"""
