"""Sans-I/O protocol: bytes in, events out; commands in, bytes out."""
