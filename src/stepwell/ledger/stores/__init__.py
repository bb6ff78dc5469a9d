"""Where postings are kept: SQLite or PostgreSQL, the thread that writes, copies and recovery."""
