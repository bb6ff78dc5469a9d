"""Signals on paper: rules that were fixed before, what they said each day, and what came of it.

Read in this order: ``rules`` (what a rule is, and the two that ship), ``log`` (a chain of signed lines),
``record`` (a day's signals into the log, and a log against its data), ``score`` (what it would have earned),
``page`` (the log as a page).
"""
