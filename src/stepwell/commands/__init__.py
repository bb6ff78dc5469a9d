"""What the command line runs: one file per command or group of commands."""
