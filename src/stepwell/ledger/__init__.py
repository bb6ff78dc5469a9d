"""What every agent cost and what it earned: metering, double-entry postings, prices, statements."""
