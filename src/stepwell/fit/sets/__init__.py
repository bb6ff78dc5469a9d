"""The task sets that ship, each made by seeded code: no data files, the same items on every machine."""
