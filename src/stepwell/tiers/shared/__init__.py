"""One directory of KV records that several processes write to and read from at once.

    index.py         which process holds what, within which bound: SQLite, made again from records if need be
    participants.py  which processes are alive, told by locks that die with them
    store.py         ``SharedStore``: records written, published, read and verified

The records are those of ``tiers/record.py``, in the directories of ``tiers/directory.py``. The store of
``tiers/store.py`` has its directory for itself and keeps its book in memory; this one is for engines of
which more than one runs on a machine, such as vLLM's data-parallel ones.
"""
