"""The runtime of crews: its own time, its kills, and what its hints are worth."""
