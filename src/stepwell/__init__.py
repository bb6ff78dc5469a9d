"""Stepwell: many agents on little fast memory. Its rooms, by who needs them::

    serving      server, loop, policy, engines, tiers, ledger, embed, library, recording, settings
    crews        agents, fit, integrations, review
    plans        simulate, economics, catalogue, report
    a fleet      fleet, gateway, vllm
    programs     cli, commands, launch, console, dashboards, demo, bench
    everywhere   basics, errors, telemetry

Who serves models can stop after the first line: those rooms import nothing of crews, plans or a fleet.
Crews know of them the documents (``library``) alone, and reach a server by HTTP. The arrows are contracts in
``pyproject.toml``.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
