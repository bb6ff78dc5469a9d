"""``stepwell serve`` and ``stepwell deploy``: one server, many nodes, and what could stop a start."""
