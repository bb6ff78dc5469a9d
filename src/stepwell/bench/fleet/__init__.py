"""Several nodes: who gets a turn, and what a killed node costs."""
