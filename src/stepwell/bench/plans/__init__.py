"""Simulated runs against live ones."""
