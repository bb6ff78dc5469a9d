"""HTTP: the OpenAI routes, identity, errors, metrics and the operator's view. Its rooms::

    a dialect    chat, responses, anthropic, gemini
    a route      embeddings, batches, files, agents, admin, watch, page, openapi
    shared       generation (what all that generate text do alike), stores (what is kept between requests)
    a request    wire (bytes and checked requests), callers (keys, agents, hints), limits (how much at once)
    behind it    backends (the loop, the books, documents), telemetry (access log, metrics, spans)

Talks to ``LoopPort``, ``TextModel`` and ``RunningBooks`` only. ``app.create_app`` builds the application,
``run.serve`` runs it until SIGTERM, ``run.BackgroundServer`` runs it in a thread; ``service`` is what every
route has at hand.
"""
