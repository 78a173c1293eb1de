"""What the peer does wrong, or too late, or can't read: it is counted, reported and answered.

Owns the counts. The leader calls these methods, so there is no lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._shown import escaped
from ..exceptions import SerializationError

if TYPE_CHECKING:
    from ..protocol import events
    from .control import ControlSender
    from .errors import ErrorReports
    from .inbox import Inbox
    from .late import LateAnswers
    from .outgoing import Outgoing

__all__ = ["Faults"]


class Faults:
    """See the module's text.

    Args:
        errors: told of what is the peer's fault.
        outgoing: our requests, which may fail for it.
        inbox: gets a notification that only looks like a fault.
        late_answers: told of an answer that came too late.

    Attributes:
        late: replies and items whose request had ended.
        unreadable: frames that could not be read, or broke a rule.
    """

    def __init__(
        self,
        control: ControlSender,
        errors: ErrorReports,
        outgoing: Outgoing,
        inbox: Inbox,
        late_answers: LateAnswers,
    ) -> None:
        self._control = control
        self._errors = errors
        self._outgoing = outgoing
        self._inbox = inbox
        self._late_answers = late_answers
        self.late = 0
        self.unreadable = 0

    def came_late(self, event: events.Late) -> None:
        """Count a reply, or an item, that nobody waits for any more."""
        self.late += 1
        if event.is_answer:
            self._late_answers.tell(event.id)

    def broke_a_rule(self, event: events.Violation) -> None:
        """Report a fault of the peer's."""
        self._report(event.error)

    def uses_another_serializer(self, event: events.Mismatch) -> None:
        """Fail all requests: no reply can be read."""
        self._report(event.error)
        if event.answer is not None:
            self._control.send(event.answer)
        self._outgoing.fail_pending(lambda call: SerializationError(str(event.error)))

    def was_skipped(self, event: events.Skipped) -> None:
        """Tell the peer what was too large to be read."""
        self._report(event.error)
        self._control.send(event.answer)

    def skipped_ours(self, event: events.PeerSkipped) -> None:
        """Fail the request that was too large for the peer."""
        message: Any = event.notification.message
        why = escaped(str(message.message))
        if not self._outgoing.fail_skipped(event.length, why):
            self._inbox.notification_received(event.notification)

    def was_rejected(self, event: events.Rejected) -> None:
        """Answer a request that could not be taken."""
        self._control.send(event.answer)

    def _report(self, error: Exception) -> None:
        self.unreadable += 1
        self._errors.report_soon(error)
