"""The terminal: options that commands share, what they print, progress, and reports of measurements."""
