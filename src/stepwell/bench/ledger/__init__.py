"""The books: whether they are right, and what it costs to keep them."""
