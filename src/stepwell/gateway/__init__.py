"""The front end of a fleet: one address, one API, many nodes.

    deployment.py   the file that says what to deploy: ``[front]``, ``[[engines]]``, ``[ledger]``
    processes.py    nodes that are started here: ``stepwell serve`` as processes, restarted when they die
    health.py       whether a node takes turns; feed.py: where its agents' KV lies, by its own account
    peek.py         what of a request decides its node: its caller, which model, how long it is
    upstream.py     one try at one node; lost nodes end their tries at once
    relay.py        a request from its choice to its end: tries, streams that break, what was learned
    routes.py       which requests are turns, which belong to a tenant's home, which are asked of all nodes
    nodes.py        all nodes: watched, drained, restarted one after the other
    front.py        a request by its kind; answer.py: what the client has got so far
    merge.py        one answer from several nodes' answers
    app.py          the application, and running it; metrics.py: ``stepwell_router_*``
    on_ray.py       the same on Ray Serve, with nodes as actors

It holds no state that a restart would miss: where agents lie, it asks the nodes. Judgement is in
``stepwell.fleet``; keys, tenants and identities are read by the server's own code, and every
node checks them again.
"""
