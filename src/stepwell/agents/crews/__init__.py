"""What a crew is and how one is written; the crews that ship lie here as TOML."""
