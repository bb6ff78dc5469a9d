"""HTTP: the OpenAI routes, identity, errors, metrics and the operator's view.

Talks to ``LoopPort``, ``TextModel`` and ``RunningBooks`` only. ``app.create_app`` builds the application,
``run.serve`` runs it until SIGTERM, ``run.BackgroundServer`` runs it in a thread.
"""
