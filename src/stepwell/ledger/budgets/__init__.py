"""What may be spent: budgets in memory, and leases where several nodes share them."""
