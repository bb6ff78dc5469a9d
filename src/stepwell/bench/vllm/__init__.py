"""vLLM as it comes, and with our parts."""
