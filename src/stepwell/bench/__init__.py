"""What Stepwell claims, measured. Every number in docs/benchmarks.md comes from a module in here."""
