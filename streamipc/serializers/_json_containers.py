"""Codecs of lists, tuples, sets and dictionaries whose items have a type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .._shown import shown
from ._json_codec import Bad, Codec, expected, has_tag, unexpected

__all__ = ["Fixed", "Items", "Mapping"]

_ONLY_STR = frozenset([str])
_NO_ITEMS = (str, bytes, bytearray, memoryview)


class Items(Codec):
    """Any number of items of one type, written as an array.

    Args:
        cls: what a value must be an instance of.
        make: turns a list into such a value; ``None``: a list is what is wanted.
    """

    __slots__ = ("_item", "_make", "_only")

    def __init__(
        self, name: str, cls: type, item: Codec, make: Callable[[Any], Any] | None, tag: str
    ) -> None:
        super().__init__(name, cls, shapes=[list], plain=make is None, tag=tag)
        self._item = item
        self._make = make
        self._only = frozenset([item.exact])

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.cls or object) and not isinstance(value, (*_NO_ITEMS, dict))

    def encode(self, value: Any) -> Any:
        if type(value) is not self.cls and not self.accepts(value):
            raise unexpected(self.name, value)
        # Most lists hold one plain type: this looks at each item in C, with no call.
        if type(value) is list and self._only.issuperset(map(type, value)):
            return value
        made: list[Any] = []
        encode = self._item.encode
        try:
            for item in value:
                made.append(encode(item))
        except Bad as bad:
            bad.steps.append(len(made))
            raise
        return made

    def decode(self, data: Any) -> Any:
        if type(data) is not list:
            if data != {}:
                raise expected(self.name, data)
            data = []  # Lua can't tell an empty array from an empty object
        if not self._only.issuperset(map(type, data)):
            made: list[Any] = []
            decode = self._item.decode
            try:
                for item in data:
                    made.append(decode(item))
            except Bad as bad:
                bad.steps.append(len(made))
                raise
            data = made
        if self._make is None:
            return data
        try:
            return self._make(data)
        except TypeError:
            raise Bad(f"an item is not hashable, so it can't be in a {self.name}") from None

    def children(self) -> Iterable[Codec]:
        return (self._item,)


class Fixed(Codec):
    """A tuple with a type for each place."""

    __slots__ = ("_items",)

    def __init__(self, items: tuple[Codec, ...]) -> None:
        names = ", ".join(item.name for item in items) or "()"
        super().__init__(f"tuple[{names}]", tuple, shapes=[list], tag="$tuple")
        self._items = items

    def accepts(self, value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == len(self._items)

    def encode(self, value: Any) -> Any:
        if not self.accepts(value):
            raise unexpected(self.name, value)
        made: list[Any] = []
        try:
            for codec, item in zip(self._items, value, strict=True):
                made.append(codec.encode(item))
        except Bad as bad:
            bad.steps.append(len(made))
            raise
        return made

    def decode(self, data: Any) -> Any:
        if type(data) is not list or len(data) != len(self._items):
            raise expected(self.name, data)
        made: list[Any] = []
        try:
            for codec, item in zip(self._items, data, strict=True):
                made.append(codec.decode(item))
        except Bad as bad:
            bad.steps.append(len(made))
            raise
        return tuple(made)

    def children(self) -> Iterable[Codec]:
        return self._items


class Mapping(Codec):
    """A dictionary: an object if its keys can be texts, else an array of pairs.

    Args:
        cls: what a value must be an instance of.
        make: turns a ``dict`` into such a value; ``None``: a ``dict`` is what is wanted.
    """

    __slots__ = ("_key", "_make", "_only", "_text", "_value")

    def __init__(
        self, name: str, cls: type, key: Codec, value: Codec, make: Callable[[Any], Any] | None
    ) -> None:
        text = key.text_key()
        super().__init__(
            name,
            cls,
            shapes=[list] if text is None else [dict],
            plain=make is None and key.exact is str,
            tag="$map",
        )
        self._key = key
        self._value = value
        self._text = text
        self._make = make
        self._only = frozenset([value.exact])

    def encode(self, value: Any) -> Any:
        if not self.accepts(value):
            raise unexpected(self.name, value)
        text = self._text
        if text is None:
            return self._pairs(value)
        if (
            self._key.exact is str
            and type(value) is dict
            and self._only.issuperset(map(type, value.values()))
            and _ONLY_STR.issuperset(map(type, value))
        ):
            return value
        made: dict[str, Any] = {}
        encode = self._value.encode
        for key, item in value.items():
            try:
                name = text.encode(key)
            except Bad as bad:
                bad.text = f"as a key, {bad.text}"
                raise
            try:
                made[name] = encode(item)
            except Bad as bad:
                bad.steps.append(name)
                raise
        if len(made) != len(value):
            raise Bad("two keys are the same text in JSON")
        return made

    def decode(self, data: Any) -> Any:
        if self._text is None:
            return self._from_pairs([] if data == {} else data)
        if type(data) is not dict:
            if data != []:
                raise expected(self.name, data)
            data = {}  # nor can PHP
        made: dict[Any, Any] = {}
        decode_key = None if self._key.exact is str else self._text.decode
        only, decode = self._value.exact, self._value.decode
        for key, item in data.items():
            try:
                made[key if decode_key is None else decode_key(key)] = (
                    item if type(item) is only else decode(item)
                )
            except Bad as bad:
                bad.steps.append(key)
                raise
        if len(made) != len(data):
            raise Bad("two keys have the same value")
        return made if self._make is None else self._make(made)

    def encode_untagged(self, value: Any) -> Any:
        made = self.encode(value)
        if type(made) is dict and has_tag(made):
            # Of what is made already: to make it again takes twice as long at each level.
            keys = [self._key.encode(key) for key in value]
            return {"$map": [[key, item] for key, item in zip(keys, made.values(), strict=True)]}
        return made

    def wrap(self, value: Any) -> Any:
        return {"$map": self._pairs(value)}

    def unwrap(self, data: dict[str, Any]) -> Any:
        if len(data) != 1:
            raise Bad('an object with "$map" has no other keys')
        return self._from_pairs(data["$map"])

    def _pairs(self, value: Any) -> Any:
        made: list[Any] = []
        try:
            for key, item in value.items():
                made.append([self._key.encode(key), self._value.encode(item)])
        except Bad as bad:
            bad.steps.append(len(made))
            raise
        return made

    def _from_pairs(self, data: Any) -> Any:
        if type(data) is not list:
            raise expected(f"{self.name} as an array of pairs", data)
        made: dict[Any, Any] = {}
        place = -1
        try:
            for place, pair in enumerate(data):  # noqa: B007 - used where it fails
                if type(pair) is not list or len(pair) != 2:
                    raise expected("a pair [key, value]", pair)
                key = self._key.decode(pair[0])
                try:
                    if key in made:
                        raise Bad(f"the key {shown(key)} occurs twice")
                except TypeError:
                    raise Bad("the key is not hashable") from None
                made[key] = self._value.decode(pair[1])
        except Bad as bad:
            bad.steps.append(place)
            raise
        return made if self._make is None else self._make(made)

    def children(self) -> Iterable[Codec]:
        return (self._key, self._value)
