"""The child process: finds the words that are nearest to one that somebody has typed.

Run with ``python -m shop.speller``. It knows nothing of Django, so it starts quickly.
"""

from difflib import get_close_matches
from pathlib import Path

from streamipc import IpcPeer

from .messages import Suggest, Suggestions

WORDS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()

session = IpcPeer().create_stdio_session()


@session.on_request
def suggest(msg: Suggest) -> Suggestions:
    return Suggestions(msg.word, get_close_matches(msg.word, WORDS))


session.serve_forever()
