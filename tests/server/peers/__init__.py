"""What the test suites of two other servers ask of them over HTTP, asked of ours.

The suites are llama.cpp's (tools/server/tests/unit) and vLLM's (tests/entrypoints/openai), read in November
2026; a case is named as the test there, and written anew. One that ``differs`` asserts what ours does
instead, and says why. ``scripts/peers.py`` makes the table of docs/api.md from this list, and
``test_peers.py`` runs it.
"""

from __future__ import annotations

from tests.server.peers import llamacpp_chat, llamacpp_completions, llamacpp_server, vllm
from tests.server.peers.case import CASES, SAYS, Asked, PeerCase, by_file, counts

SUITES = (llamacpp_server, llamacpp_completions, llamacpp_chat, vllm)
"""Imported for their cases, which enter themselves in ``CASES``."""

__all__ = ["CASES", "SAYS", "SUITES", "Asked", "PeerCase", "by_file", "counts"]
