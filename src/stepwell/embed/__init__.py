"""Models that turn texts into vectors or rank documents, each in a process of its own."""
