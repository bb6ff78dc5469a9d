"""A node put together from settings, and what commands, measurements and the demo start alike.

assemble.py        one model: engine, tiers, ledger, policy, loop
several.py         several models beside each other, with one host pool and one disk
beside.py          the models of vectors and rankings
embedded.py        any of these with its server, inside this process
serve.py           `stepwell serve`
serve_vllm.py      the same with vLLM's own server behind it
crew_servers.py    servers for the models of a crew
modelled_fleet.py  a fleet on paper
"""
