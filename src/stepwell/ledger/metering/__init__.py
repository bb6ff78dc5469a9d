"""What every step of the machine cost and for which account, as postings."""
