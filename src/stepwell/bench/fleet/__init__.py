"""Several nodes: which gets a turn, and what a killed node costs."""
