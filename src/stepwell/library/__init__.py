"""Documents of every tenant: read, kept and searched. Knows nothing of servers, engines or policies."""
