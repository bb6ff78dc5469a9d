"""The one loop of a server: events in, a plan out, the plan carried out.

``driver.py`` runs it; ``requests.py`` says what is asked and what comes back, ``snapshot.py`` shows a moment.
"""

from __future__ import annotations
