"""What each bit of accuracy costs: task sets with checkable answers, and the profiles that are fitted on them."""
