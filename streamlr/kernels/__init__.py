"""Compiled kernels: plain functions on arrays that import numpy and math only, and what compiles them.

A kernel allocates nothing and raises nothing; its docstring is the formula. Each has an obvious twin in
`tests/naive.py` and a test that the two agree.
"""
