"""Every exception that leaves the library.

The hierarchy is flat: each class says one thing that can go wrong, derives from
:class:`IpcError`, and also from the built-in that a reader would expect to catch
(``ConnectionError``, ``TimeoutError``), so that code which knows nothing of this
library still handles it.
"""

from __future__ import annotations

import streamipc

from ._signals import let_through

__all__ = [
    "IpcError",
    "MessageDefinitionError",
    "OverloadedError",
    "ProtocolError",
    "RemoteError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "SerializationError",
    "SessionClosedError",
    "UnhandledRequestError",
    "WorkerLostError",
    "WorkersUnavailableError",
]

_LONGEST_TRACEBACK = 8 << 10
"""Characters of one that is kept as text."""


class IpcError(Exception):
    """Base class of everything that streamipc raises on purpose."""


class MessageDefinitionError(IpcError, TypeError):
    """A message class can't be defined as it is written.

    Raised by the ``class`` statement itself: a wire name that another class already
    has, or a wire name that is not a non-empty string.
    """


class SerializationError(IpcError):
    """A message can't be turned into bytes, or bytes can't be turned into a message.

    In the sender it is raised by the call that sends, before a byte is written; the
    session lives on. In the receiver the request is answered with it.

    Args:
        message: what went wrong, naming the type or the path of the field.
        envelope: set by a serializer whose ``decode`` could read the header of the
            payload but not its body, so that a request still gets an answer.
    """

    def __init__(
        self, message: str, *, envelope: streamipc.envelopes.Envelope | None = None
    ) -> None:
        super().__init__(message)
        self.envelope = envelope


class ProtocolError(IpcError):
    """The peer broke the rules of the protocol, or a frame is larger than allowed."""


class SessionClosedError(IpcError, ConnectionError):
    """The session has ended, so the message can't be sent or the reply can't come.

    Attributes:
        returncode: the child's exit status as in :attr:`subprocess.Popen.returncode`
            (negative: killed by that signal), or ``None`` if there is no child, it has
            not ended, or somebody else has taken its status; the text says which.
        signal: the name of the signal that killed the child, such as ``"SIGKILL"``,
            or ``None``.
        stderr_tail: the last lines that the child wrote to its standard error.
        executed: ``False``: the request was certainly not started, so it may be sent elsewhere;
            ``None``: that is not known.
    """

    def __init__(
        self,
        message: str = "the session is closed",
        *,
        returncode: int | None = None,
        signal: str | None = None,
        stderr_tail: str = "",
        executed: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.executed = executed
        self.returncode = returncode
        self.signal = signal
        self.stderr_tail = stderr_tail


class WorkerLostError(SessionClosedError):
    """A worker of a :class:`WorkerPool` died with the request.

    Whether its handler ran is not known (``executed`` is ``None``). ``returncode``, ``signal`` and
    ``stderr_tail`` are the worker's.
    """


class WorkersUnavailableError(SessionClosedError):
    """A :class:`WorkerPool` has no worker, and none can be had soon; the request was not started.

    Its workers die as soon as they are started, or none was ready in time. ``returncode``,
    ``signal`` and ``stderr_tail`` are those of the last one.

    Attributes:
        retry_after: seconds until the next worker may be started; a web server says it in its
            ``Retry-After``.
    """

    def __init__(
        self,
        message: str = "no worker is there",
        *,
        retry_after: float = 0.0,
        returncode: int | None = None,
        signal: str | None = None,
        stderr_tail: str = "",
        executed: bool | None = False,
    ) -> None:
        super().__init__(
            message,
            returncode=returncode,
            signal=signal,
            stderr_tail=stderr_tail,
            executed=executed,
        )
        self.retry_after = retry_after


class RequestTimeoutError(IpcError, TimeoutError):
    """No reply came in time.

    Raised for the request's own deadline, which ends the request, and for the bound
    of one ``result(timeout=...)`` call, which leaves the request alive.

    Attributes:
        answered: the peer has said so: the request's time was over there, and its handler has
            ended, or was never started. ``False``: nothing came from the peer.
    """

    answered = False


class RequestCancelledError(IpcError):
    """The request was cancelled by the side that had made it.

    In a handler it is raised by ``RequestContext.raise_if_cancelled()``. The caller
    that cancelled sees ``concurrent.futures.CancelledError``, as with any future.
    """


class RemoteError(IpcError):
    """The peer's handler raised an exception.

    Attributes:
        remote_type: qualified name of the exception's class on the other side, such as
            ``"ValueError"`` or ``"app.errors.NotFound"``.
        remote_message: its text.
        remote_traceback: its traceback as text, also shown as the cause of this one.
    """

    def __init__(self, message: str, remote_type: str = "", remote_traceback: str = "") -> None:
        super().__init__(f"{remote_type}: {message}" if remote_type else message)
        self.remote_message = message
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback
        if remote_traceback:
            self.__cause__ = _RemoteTraceback(remote_traceback)

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, str]]:
        """Pickle by the three arguments, not by the joined text."""
        return type(self), (self.remote_message, self.remote_type, self.remote_traceback)


class _RemoteTraceback(Exception):
    """Carries the peer's traceback so that Python prints it above the local one.

    The same device as in :mod:`concurrent.futures.process` and :mod:`multiprocessing.pool`.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class UnhandledRequestError(IpcError):
    """The peer has no handler for this request."""


class OverloadedError(IpcError):
    """The peer holds as much as its ``Limits`` allow; try again later.

    The request was not started.
    """


def fresh(error: BaseException) -> BaseException:
    """Return the error to be raised for one that several may raise, at the same time or in turn.

    Each gets its own: a traceback that all share would grow with each that raises it, and
    show one thread what another called. Only ours are copied; what a class of somebody else's
    keeps besides its ``__dict__`` is not known.
    """
    cls = type(error)
    if not isinstance(error, IpcError):
        return error.with_traceback(None)
    copy = cls.__new__(cls)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    if "__notes__" in copy.__dict__:
        copy.__dict__["__notes__"] = [*copy.__dict__["__notes__"]]
    copy.__context__ = error.__context__
    copy.__cause__ = error.__cause__  # sets __suppress_context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy


def release_frames(error: BaseException) -> None:
    """Have an error that is going to wait keep nothing alive but itself and its causes.

    The frames of a traceback hold the payload that could not be read, and what was made of it.
    """
    errors: list[BaseException | None] = [error]
    seen: set[int] = set()
    while errors:
        one = errors.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            if isinstance(one, SerializationError):
                one.envelope = None
            errors += [one.__cause__, one.__context__]


def with_traceback_as_text(error: Exception) -> Exception:
    """Have an error show its traceback when it is logged, without keeping the frames alive."""
    import traceback  # which is there: whoever answers requests needs it

    text = "".join(traceback.format_exception(error))
    error.__cause__ = _RemoteTraceback(text[-_LONGEST_TRACEBACK:])
    return error


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, or what is wrong with that."""
    try:
        return str(error)
    except Exception as failure:
        let_through(failure)
        return f"<str() of the exception failed: {type(failure).__name__}>"
