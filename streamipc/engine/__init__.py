"""The engine: the only place that starts a thread or takes a lock."""
