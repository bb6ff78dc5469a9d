"""``stepwell study``: questions that the simulation answers."""
