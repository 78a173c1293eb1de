"""Message classes with one field, and what JSON makes of it."""

from __future__ import annotations

import json
from typing import Any

from streamipc import JsonMessageSerializer, Message
from streamipc.protocol.envelopes import Notification

__all__ = ["Fields"]


class Fields:
    """Makes them as if they were defined in a test's module, whose names they may use.

    Args:
        module: its name.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._serializer = JsonMessageSerializer()

    def holder(self, annotation: Any) -> Any:
        """Return a message class with one field ``v`` of that type."""
        space = {
            "__annotations__": {"v": annotation},
            "__module__": self._module,
            "__qualname__": "Holder",
        }
        return type(Message)("Holder", (Message,), space)

    def write(self, annotation: Any, value: Any) -> Any:
        """Return what stands for ``value`` in JSON."""
        message = self.holder(annotation)(value)
        (payload,) = self._serializer.encode(Notification(message))
        return json.loads(bytes(payload))["body"]["v"]

    def read(self, annotation: Any, data: Any) -> Any:
        """Return the value that ``data`` stands for."""
        name = self.holder(annotation).__wire_name__
        payload = json.dumps({"kind": "notification", "type": name, "body": {"v": data}})
        envelope: Any = self._serializer.decode(memoryview(payload.encode()))
        return envelope.message.v

    def assert_form(self, annotation: Any, value: Any, written: Any) -> None:
        """See that ``value`` is written so, and comes back as it was."""
        data = self.write(annotation, value)
        made = self.read(annotation, data)

        assert data == written
        assert type(data) is type(written)
        assert made == value
        assert type(made) is type(value)
