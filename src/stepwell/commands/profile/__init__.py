"""``stepwell profile``: what each setting of a crew brings and costs."""
