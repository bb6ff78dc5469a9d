"""Which node of a fleet serves a turn. Pure, so that the front end and a simulator run the same code.

    types.py        the nouns: a turn that wants a node, what is known of a node, the choice
    rendezvous.py   where agents go of which nothing is known
    places.py       where each agent's KV lies, as far as nodes have said
    prefixes.py     which beginnings of prompts each node was sent lately
    nodes.py        how much a node has to do, how fast it is, whether it takes turns
    state.py        both together, kept up to date by what is told: ``Fleet``
    routers.py      the rules behind one ``Router`` protocol: round robin, least loaded, KV-affine

No I/O, no clock, no randomness: times are passed in, in microseconds.
"""
