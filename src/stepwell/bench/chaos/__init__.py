"""``stepwell bench chaos``: a whole server under load while everything around it fails.

``chaos`` is the front door; ``target`` is the server, ``load`` the clients, ``faults`` what happens to the
server, ``checks`` what must hold whatever happens.
"""
