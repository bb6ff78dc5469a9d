"""The description of the HTTP API, made from the types that read requests and from types of the answers."""

from __future__ import annotations
