"""What the routes wait for, off the event loop: the model's loop, the books, documents, embedding models."""
