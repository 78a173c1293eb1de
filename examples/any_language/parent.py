"""Talks to a child that is written in JavaScript, and answers its questions."""

from pathlib import Path

from messages import CountWords, IsStopWord, Ready

from streamipc import IpcPeer, JsonMessageSerializer, RemoteError, UnhandledRequestError

STOP_WORDS = {"and", "in", "of", "the"}

if __name__ == "__main__":
    child = ["node", str(Path(__file__).with_name("child.js"))]
    session = IpcPeer(JsonMessageSerializer()).create_command_session(child)

    @session.on_request
    def is_stop_word(msg: IsStopWord) -> bool:
        return msg.word in STOP_WORDS

    with session:
        ready = session.receive(timeout=30)
        assert isinstance(ready, Ready)
        print(f"the child runs on {ready.runtime}")

        count = session.request(CountWords("The élan of the sea, and the sea")).result(timeout=30)
        print(f"{count.words} words, the longest is {count.longest!r}: {count.counts}")

        try:
            session.request(CountWords("")).result(timeout=30)
        except RemoteError as error:
            print(f"the child says: {error}")

        try:
            session.request(IsStopWord("of")).result(timeout=30)
        except UnhandledRequestError:
            print("the child does not answer IsStopWord itself")
