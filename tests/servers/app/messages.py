from streamipc import Message, Request


class Answer(Message):
    payload: str
    pid: int


class Echo(Request[Answer]):
    payload: str
