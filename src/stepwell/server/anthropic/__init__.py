"""Anthropic's dialect: ``/v1/messages`` over the same way that chat completions go.

``request`` turns a body into a chat request, ``answer`` writes what comes back, ``errors`` says what went
wrong in the dialect's own shape, ``routes`` puts them together.
"""
