"""``/v1/agents`` and ``/v1/sessions``: what agents hold, and what sessions may spend."""
