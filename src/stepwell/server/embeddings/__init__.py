"""Embeddings and rankings, by models beside the chat model."""
