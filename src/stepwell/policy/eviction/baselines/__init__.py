"""Yardsticks: the rules that other servers use, and an oracle, behind the same seam as Stepwell's own."""

from __future__ import annotations
