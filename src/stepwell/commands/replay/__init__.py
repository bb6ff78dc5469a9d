"""``stepwell replay``: a recorded run once more."""
