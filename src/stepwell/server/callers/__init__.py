"""What calls: its key, its session and agent, its role, and what it says about what comes next."""
