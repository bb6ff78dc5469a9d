"""What serving costs and earns: from a token to a data centre's cash flow."""
