"""OpenAI's routes for chats, completions and tokens."""
