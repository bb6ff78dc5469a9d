"""Conversations: items kept under an id, which turns of ``/v1/responses`` go on from and add to."""

from __future__ import annotations
