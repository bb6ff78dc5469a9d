"""Gemini's explicit cache, as a thin face over prewarming: ``cachedContents`` and ``generateContent``."""

from __future__ import annotations
