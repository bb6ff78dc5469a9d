"""KV on disk, while processes die and bits flip."""
