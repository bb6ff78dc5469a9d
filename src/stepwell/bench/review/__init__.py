"""The weekly review, judged."""
