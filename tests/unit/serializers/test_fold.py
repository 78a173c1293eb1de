"""The hour that comes twice in the night when clocks go back: which of the two is kept."""

from __future__ import annotations

import datetime as dt
import json
import zoneinfo
from typing import Any

import pytest

from streamipc.exceptions import SerializationError
from streamipc.messages import Message
from streamipc.protocol.envelopes import Notification, Response
from streamipc.serializers.json import JsonMessageSerializer
from streamipc.serializers.native import NativeMessageSerializer

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
TWO = dt.timezone(dt.timedelta(hours=2))
NIGHT = dt.datetime(2024, 10, 27, 2, 30)

NATIVE = NativeMessageSerializer()
JSON = JsonMessageSerializer()


class At(Message, wire_name="fold.At"):
    when: dt.datetime
    clock: dt.time = dt.time(0)
    keys: dict[dt.datetime, int] | None = None
    either: dt.datetime | str | None = None
    free: Any = None


def there_and_back(serializer: Any, message: At) -> At:
    payload = b"".join(bytes(part) for part in serializer.encode(Notification(message)))
    made: At = serializer.decode(memoryview(payload)).message
    return made


@pytest.mark.parametrize("serializer", [NATIVE, JSON], ids=["native", "json"])
@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("micro", [0, 5])
def test_a_time_without_a_zone_keeps_which_of_the_two_it_is(
    serializer: Any, fold: int, micro: int
) -> None:
    when = NIGHT.replace(fold=fold, microsecond=micro)
    message = At(when, when.time(), {when: 1}, when, [when, when.time()])

    back = there_and_back(serializer, message)

    assert back == message
    (key,) = back.keys or ()
    values = [back.when, back.clock, key, back.either, *back.free]
    assert [value.fold for value in values] == [fold] * 6


@pytest.mark.parametrize("fold", [0, 1])
def test_the_native_serializer_keeps_it_with_a_zone_too(fold: int) -> None:
    for zone in (BERLIN, TWO, dt.timezone.utc):
        when = NIGHT.replace(fold=fold, tzinfo=zone)
        back = there_and_back(NATIVE, At(when, when.timetz()))
        assert (back.when, back.when.fold, back.when.tzinfo) == (when, fold, zone)
        assert (back.clock.fold, back.clock.tzinfo) == (fold, zone)


@pytest.mark.parametrize("fold", [0, 1])
def test_json_has_it_in_the_offset_where_there_is_one(fold: int) -> None:
    for zone in (BERLIN, TWO):
        when = NIGHT.replace(fold=fold, tzinfo=zone)
        (payload,) = JSON.encode(Notification(At(when)))
        assert json.loads(payload)["body"]["when"] == when.isoformat()
        assert there_and_back(JSON, At(when)).when.timestamp() == when.timestamp()


def test_json_writes_it_only_where_it_is_needed() -> None:
    (payload,) = JSON.encode(Response(1, [NIGHT, NIGHT.replace(fold=1), dt.time(2, fold=1)]))
    assert json.loads(payload)["body"] == [
        {"$datetime": "2024-10-27T02:30:00"},
        {"$datetime": "2024-10-27T02:30:00[_fold=1]"},
        {"$time": "02:00:00[_fold=1]"},
    ]


def test_the_text_of_a_class_derived_from_datetime_is_not_that_of_its_isoformat() -> None:
    class Stamp(dt.datetime):
        def isoformat(self, *args: Any, **options: Any) -> str:
            return "soon"

    stamp = Stamp(2024, 10, 27, 2, 30, fold=1)
    back = there_and_back(JSON, At(stamp)).when
    assert (back, back.fold) == (NIGHT, 1)


@pytest.mark.parametrize(
    "text",
    [
        "2024-10-27T02:30:00[_fold=0]",
        "2024-10-27T02:30:00[_fold=1][_fold=1]",
        "2024-10-27T02:30:00+02:00[_fold=1]",
        "2024-10-27T02:30:00Z[_fold=1]",
        "2024-10-27T02:30:00[Europe/Berlin]",
        "[_fold=1]",
        "]",
    ],
)
def test_json_takes_no_other_suffix(text: str) -> None:
    for tag in ("$datetime", "$time"):
        payload = json.dumps({"kind": "response", "id": 1, "body": {tag: text}})
        with pytest.raises(SerializationError, match=f"^body: expected {tag[1:]}, got"):
            JSON.decode(memoryview(payload.encode()))
