"""Serializers: envelope to payload and back; ``base.py`` is the contract."""
