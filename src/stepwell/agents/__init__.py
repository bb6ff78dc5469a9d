"""Crews: agents that spawn, wait and call tools, over any OpenAI-compatible server."""
