"""What each bit of accuracy costs: task sets with checkable answers, and profiles fitted on them."""
