"""The server over HTTP: pressure, neighbours, attacks, and what its services cost."""
