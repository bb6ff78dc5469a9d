"""Stepwell inside vLLM: what vLLM loads by name from its configuration. Written for vLLM 0.32.

    disk.py     ``StepwellDisk``: a disk tier, bounded, checksummed and shared; docs/vllm-disk-tier.md
    spec.py     ``StepwellSpec``: offloading on every platform, the CPU included
    host.py     ``StepwellHost``: which chunks leave host memory first; ``host_book.py`` keeps its book
    scheduler.py  ``StepwellScheduler``: service tiers; ``preemption.py`` says who gives way
    owners.py   ``StepwellOwners``: whose a request is, as middleware of vLLM's own server

vLLM is imported here and nowhere else, and no other room imports this one's modules before they are wanted.
"""
