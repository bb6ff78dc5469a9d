"""What operators are told: log lines, spans and metrics by OpenTelemetry, all without secrets."""
