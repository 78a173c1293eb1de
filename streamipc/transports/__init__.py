"""Move bytes and know nothing else. ``base`` has the contract."""
