"""``stepwell doctor``: what this machine can hold, and what is promised for it."""
