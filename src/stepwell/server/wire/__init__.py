"""From bytes to checked requests, and events back to bytes."""
