"""The live page: files that a browser shows, and the cookie that stands for a key there."""

from __future__ import annotations
