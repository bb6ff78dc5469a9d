"""What is kept in memory between requests: stored responses, conversations, cached contents, the page's keys.

Stores know no route and no service: routes and the service of all routes stand above them.
"""

from __future__ import annotations
