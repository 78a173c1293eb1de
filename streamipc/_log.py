"""What the library has to say to nobody in particular: the logger ``streamipc``.

What is said there comes from threads that others rely on, in moments when things go wrong.
So saying it never raises, also where no descriptor or no memory is left to import
:mod:`logging` with, or where a handler of the user's fails.
"""

from __future__ import annotations

import sys

__all__ = ["log_error", "log_warning"]


def log_error(text: str, error: BaseException) -> None:
    """Log an error with its traceback."""
    _log("error", text, error)


def log_warning(text: str) -> None:
    """Log a warning."""
    _log("warning", text, None)


def _log(level: str, text: str, error: BaseException | None) -> None:
    try:
        import logging

        getattr(logging.getLogger("streamipc"), level)("%s", text, exc_info=error)
    except Exception as failure:
        try:
            sys.stderr.write(f"{text}\n(not logged: {type(failure).__name__}: {failure})\n")
        except Exception:
            pass  # there is nowhere left to say it
