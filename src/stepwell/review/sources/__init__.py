"""Where figures come from: each source says what to ask for a week and reads the reply into cells.

A source has ``requests(week)`` and ``read(facts, reply)``. A reply is refused, with the source's name and
its first bytes, unless it keeps the source's contract: the right kind of content, the columns, the days.
"""
