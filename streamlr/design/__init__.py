"""From record batches to blocks of numbers: names and roles, levels, coding, conditioning.

`spec.py` checks what was asked for, `profile.py` learns from the rows, `design.py` freezes both and encodes
batches, `layout.py` numbers the coefficients and `basis.py` conditions the arithmetic. Knows no files and no
losses.
"""
