"""Who reads, who writes, who runs the handlers, and how it ends. ``engine.py`` shows the ways."""
