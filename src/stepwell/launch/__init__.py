"""What commands, measurements and the demo start alike: a server, servers for the models of a crew, a
modelled fleet. The three stand beside each other above this room, and none uses another.
"""

from __future__ import annotations
