"""``stepwell run`` and ``stepwell trace``: a crew at work, and its steps afterwards."""
