"""Recordings of what the policy was told: the file, its decisions once more, its books once more."""
