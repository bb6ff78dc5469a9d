"""Tiny models with random weights, one for each architecture of llama.cpp, and what is promised for it."""
