"""Eviction policies against a lower bound, and what a decision costs."""
