"""Scalars of numpy in JSON: written as the numbers that they are."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal, Union

import pytest
from json_fields import Fields

from streamipc.exceptions import SerializationError
from streamipc.protocol.envelopes import Response
from streamipc.serializers.json import JsonMessageSerializer

np = pytest.importorskip("numpy")
fields = Fields(__name__)
SERIALIZER = JsonMessageSerializer()


@pytest.mark.parametrize(
    ("annotation", "value", "plain"),
    [
        (int, np.int64(2), 2),
        (int, np.int8(-2), -2),
        (int, np.uint64(2**64 - 1), 2**64 - 1),
        (float, np.float64(1.5), 1.5),
        (float, np.float32(1.5), 1.5),
        (float, np.float16(1.5), 1.5),
        (float, np.int64(2), 2.0),
        (float, np.float32("inf"), float("inf")),
        (bool, np.bool_(True), True),
        (bool, np.bool_(False), False),
        (int | None, np.int64(2), 2),
        (list[int], list(np.arange(3)), [0, 1, 2]),
        (tuple[float, ...], tuple(np.ones(2)), (1.0, 1.0)),
        (set[int], {np.int64(1)}, {1}),
        (dict[str, float], {"a": np.float32(0.5)}, {"a": 0.5}),
        (dict[int, bool], {np.int64(1): np.bool_(True)}, {1: True}),
        (dict[float, int], {np.float32(0.5): np.int64(1)}, {0.5: 1}),
        (dict[bool, int], {np.bool_(True): 1}, {True: 1}),
        (Union[int, str], np.int64(2), 2),
        (Union[float, int], np.int64(2), 2),
        (Union[float, int, str], np.float32(1.5), 1.5),
        (Union[str, bool], np.bool_(True), True),
        (Any, np.int64(2), 2),
        (Any, [np.bool_(True), np.float32(1.5), np.float64(1.5)], [True, 1.5, 1.5]),
        (Any, {np.int64(1): np.int64(2)}, {1: 2}),
        (str, np.str_("a"), "a"),
    ],
    ids=str,
)
def test_a_scalar_arrives_as_the_number_that_it_is(annotation: Any, value: Any, plain: Any) -> None:
    made = fields.read(annotation, fields.write(annotation, value))

    assert made == plain
    assert type(made) is type(plain)
    assert json.dumps(made, default=list) == json.dumps(plain, default=list)


def test_a_reply_may_be_a_scalar() -> None:
    for value in (np.int64(5), np.float64(5), np.float32(5), np.bool_(True)):
        (payload,) = SERIALIZER.encode(Response(1, value))
        made: Any = SERIALIZER.decode(memoryview(payload))
        assert made.value == value
        assert type(made.value) in (int, float, bool)


@pytest.mark.parametrize(
    ("annotation", "value", "shown"),
    [
        (int, np.float64(2.0), "got numpy.float64(2.0)"),
        (int, np.bool_(True), "(True)"),
        (bool, np.int64(1), "got numpy.int64(1)"),
        (float, np.bool_(True), "(True)"),
        (float, np.longdouble(1), "got <numpy.longdouble object>"),
        (str, np.int64(1), "got numpy.int64(1)"),
        (int, np.timedelta64(1, "s"), "got <numpy.timedelta64 object>"),
        (int, np.str_("1"), "got numpy.str_('1')"),
        (int, np.array(1), "got numpy.ndarray(1)"),
        (float, np.array(1.5), "got numpy.ndarray(1.5)"),
        (int, np.arange(3), "got <numpy.ndarray object>"),
        (list[int], np.arange(3), "got <numpy.ndarray object>"),
        (Literal[1], np.int64(1), "got numpy.int64(1)"),
        (Union[int, str], np.array(1), "got numpy.ndarray(1)"),
        (Union[str, None, list[int]], np.int64(1), "got 1"),
        (Any, np.array(1), "can't carry a value of numpy.ndarray; send its tolist()"),
        (Any, np.longdouble(1), "can't carry a value of numpy.longdouble"),
    ],
    ids=str,
)
def test_what_is_no_such_number_is_refused_by_its_type(
    annotation: Any, value: Any, shown: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        fields.write(annotation, value)
    assert str(caught.value).startswith("body.v: ")
    assert shown in str(caught.value)


def test_numpy_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", type(sys)("numpy"))  # still being imported
    with pytest.raises(SerializationError, match="expected int, got"):
        fields.write(int, np.int64(2))
