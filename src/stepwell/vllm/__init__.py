"""Stepwell inside vLLM, and before it. Written for vLLM 0.32.

What vLLM loads by name from its configuration:

    disk.py     ``StepwellDisk``: a disk tier, bounded, checksummed and shared; docs/vllm-disk-tier.md
    objects.py  ``StepwellObjects``: a tier in an object store that machines share; docs/object-store.md
    spec.py     ``StepwellSpec``: offloading on every platform, the CPU included
    host.py     ``StepwellHost``: which chunks leave host memory first; ``host_book.py`` keeps its book
    scheduler.py  ``StepwellScheduler``: service tiers; ``preemption.py`` says which requests give way
    owners.py   ``StepwellOwners``: the owner of a request, as middleware of vLLM's own server
    rewrite.py  what becomes of a client's body

    engine_meter.py  what of the engine each owner has, told every second; step_meter.py: by the scheduler

What stands before vLLM's server in ``stepwell serve --engine vllm``:

    app.py      the routes; front.py: a turn on its way to vLLM and back; shape.py: what it may come to
    usage.py    what vLLM says it has come to; books.py: how that gets into the ledger
    child.py    vLLM's process; launch.py: it ends with its parent; command_line.py: its flags
    reports.py  what the engine tells, on its way into the books
    engine_loop.py  vLLM as the server's routes see an engine

    install.py  whether vLLM and a model are there, in one sentence; convert.py: a model of a GGUF,
                random_model.py: of nothing

vLLM is imported here and nowhere else, and no other room imports this one's modules before they are wanted.
"""
