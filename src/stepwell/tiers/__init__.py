"""Host and disk: the KV tiers below the device. They keep bytes and decide nothing.

    base.py      the contract: read it first
    local.py     host pool and disk store of this machine, with queued transfers (host.py, workers.py)
    store.py     records in files: record.py (format), directory.py, files.py, scan.py (start), pages.py
    memory.py    the contract once more, in memory: keeps its suite honest

inspect.py answers ``stepwell disk``.
"""
