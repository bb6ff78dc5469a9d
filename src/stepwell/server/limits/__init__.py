"""How much at once and per minute: connections, bodies, prompts in the making, places, rates, budgets."""
