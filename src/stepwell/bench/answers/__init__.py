"""What answers are held to: schemas, and what of a conversation a chat template keeps."""
