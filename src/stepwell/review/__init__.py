"""The weekly review: a report in which no number, date, direction or comparison is written by hand or by a
model.

Read in this order: ``facts`` (what a cell is), ``sources`` (raw replies to cells), ``formulas`` (cells from
cells), ``outline`` (which sentences may be said), ``wording`` (how a cell reads in English and in Chinese),
``writer`` (which chooses and connects), ``page`` (the report), ``verifier`` (reads the page again and shares
nothing with what wrote it).
"""
