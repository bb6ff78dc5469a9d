"""Documents: files, their KV ahead of questions, search, vector stores."""
