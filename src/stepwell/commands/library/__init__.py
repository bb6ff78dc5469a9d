"""``stepwell library``: documents for agents, here or behind a server."""
