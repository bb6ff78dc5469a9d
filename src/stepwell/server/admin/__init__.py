"""What only operators and their machines ask: keys, budgets, margins, usage, health, metrics."""
