"""What operators are told: the access log, metrics, spans."""
