"""``stepwell review`` and ``stepwell signals``: the week in two languages, and rules on paper."""
