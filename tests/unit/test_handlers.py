"""Which handler takes which message, by what its signature says."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from typing import TYPE_CHECKING, Any, Generic, Optional, TypeVar, Union

import pytest

from streamipc import IpcSession, Message, ProcessSession, RequestContext, current_request
from streamipc.handlers import HandlerRegistry

if TYPE_CHECKING:
    from nowhere import Unknown, UnknownSession

M = TypeVar("M", bound="Animal")
T = TypeVar("T")


class Animal(Message):
    pass


class Cat(Animal):
    pass


class Dog(Animal):
    pass


class Stone(Message):
    pass


class Box(Message, Generic[T]):
    content: Any


@pytest.fixture
def registry() -> HandlerRegistry:
    return HandlerRegistry(Message, "on_request")


def takes(registry: HandlerRegistry) -> list[str]:
    return [cls.__name__ for cls in (Animal, Cat, Dog, Stone) if registry.find(cls)]


# Types


def cat(msg: Cat) -> None: ...
def cat_or_dog(msg: Cat | Dog) -> None: ...
def union(msg: Union[Cat, Dog]) -> None: ...
def animal(msg: Animal) -> None: ...
def bounded(msg: M) -> None: ...
def everything(msg: Message) -> None: ...
def anything(msg: Any) -> None: ...
def thing(msg: object) -> None: ...
def plain(msg): ...  # type: ignore[no-untyped-def]
def generous(*args: Any) -> None: ...
def optional_second(msg: Cat, scale: int = 1) -> None: ...


ALL = ["Animal", "Cat", "Dog", "Stone"]


@pytest.mark.parametrize(
    ("function", "taken"),
    [
        (cat, ["Cat"]),
        (cat_or_dog, ["Cat", "Dog"]),
        (union, ["Cat", "Dog"]),
        (animal, ["Animal", "Cat", "Dog"]),
        (bounded, ["Animal", "Cat", "Dog"]),
        (everything, ALL),
        (anything, ALL),
        (thing, ALL),
        (plain, ALL),
        (generous, ALL),
        (print, ALL),
        (lambda msg: None, ALL),
        (optional_second, ["Cat"]),
        (functools.partial(cat), ["Cat"]),
    ],
)
def test_the_first_parameters_annotation_says_what_a_handler_takes(
    registry: HandlerRegistry, function: Any, taken: list[str]
) -> None:
    assert registry.register(function) is function
    assert takes(registry) == taken


def test_methods_and_callable_objects_are_handlers(registry: HandlerRegistry) -> None:
    class Service:
        def handle(self, msg: Cat) -> None: ...
        @classmethod
        def of_class(cls, msg: Dog) -> None: ...
        @staticmethod
        def static(msg: Stone) -> None: ...
        def __call__(self, msg: Animal) -> None: ...

    service = Service()
    for handler, taken in [
        (service.handle, ["Cat"]),
        (Service.of_class, ["Dog"]),
        (Service.static, ["Stone"]),
        (service, ["Animal", "Cat", "Dog"]),
    ]:
        registry.register(handler)
        assert takes(registry) == taken
        registry.remove(handler)


def test_a_type_given_to_the_decorator_wins(registry: HandlerRegistry) -> None:
    @registry.register(Dog)
    def handler(msg: Cat) -> None: ...

    assert takes(registry) == ["Dog"]
    assert [h.function for h in registry.find(Dog)] == [handler]


def test_a_union_may_be_given_to_the_decorator(registry: HandlerRegistry) -> None:
    registry.register(Cat | Stone)(plain)

    assert takes(registry) == ["Cat", "Stone"]


def test_parentheses_without_a_type_are_fine(registry: HandlerRegistry) -> None:
    registry.register()(cat)

    assert takes(registry) == ["Cat"]


def test_classes_of_a_function_are_found(registry: HandlerRegistry) -> None:
    class Local(Message):
        pass

    @registry.register
    def handler(msg: Local) -> None: ...

    assert registry.find(Local)
    assert takes(registry) == []


def test_a_handler_may_name_what_is_defined_after_it(registry: HandlerRegistry) -> None:
    @registry.register
    def handler(msg: Cat) -> Any:
        return later(msg)

    def later(msg: Cat) -> str:
        return "later"

    assert takes(registry) == ["Cat"]
    assert handler(Cat()) == "later"


def test_an_annotation_may_be_quoted_although_annotations_are_texts_anyway(
    registry: HandlerRegistry,
) -> None:
    @registry.register
    def handler(msg: "Cat", context: "RequestContext") -> None: ...  # noqa: UP037

    @registry.register
    def other(msg: Union["Dog", "Stone"]) -> None: ...  # noqa: UP037

    assert takes(registry) == ["Cat", "Dog", "Stone"]
    assert registry.find(Cat)[0].second == "context"
    with pytest.raises(TypeError, match=r"annotation .*'Nowhere'.* can't be resolved"):

        @registry.register
        def lost(msg: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


def test_handlers_come_in_the_order_of_registration(registry: HandlerRegistry) -> None:
    for function in (animal, everything, cat, plain):
        registry.register(function)

    assert [h.function for h in registry.find(Cat)] == [animal, everything, cat, plain]
    assert [h.function for h in registry.find(Stone)] == [everything, plain]


def test_a_handler_that_comes_later_is_found_although_the_type_was_looked_up(
    registry: HandlerRegistry,
) -> None:
    assert registry.find(Cat) == ()
    registry.register(cat)
    assert len(registry.find(Cat)) == 1
    registry.remove(cat)
    assert registry.find(Cat) == ()
    assert not registry


# The second parameter


def second(registry: HandlerRegistry, function: Any) -> str:
    registry.register(function)
    (handler,) = registry.find(Cat)
    registry.remove(function)
    return handler.second


def test_a_second_parameter_is_the_context(registry: HandlerRegistry) -> None:
    def handler(msg: Cat, ctx: RequestContext) -> None: ...

    assert second(registry, handler) == "context"


def test_a_second_parameter_of_any_name_is_the_context(registry: HandlerRegistry) -> None:
    assert second(registry, lambda msg, whatever: None) == "context"


@pytest.mark.parametrize("annotation", [IpcSession, ProcessSession, "IpcSession", "ProcessSession"])
def test_a_second_parameter_annotated_as_a_session_is_the_session(
    registry: HandlerRegistry, annotation: Any
) -> None:
    def handler(msg, session): ...  # type: ignore[no-untyped-def]

    handler.__annotations__ = {"msg": Cat, "session": annotation}
    assert second(registry, handler) == "session"


def test_a_session_class_known_to_type_checkers_alone_is_one_by_its_name(
    registry: HandlerRegistry,
) -> None:
    def handler(msg: Cat, session: UnknownSession) -> None: ...

    assert second(registry, handler) == "session"


def test_a_second_parameter_that_may_be_none_is_given_what_else_it_names(
    registry: HandlerRegistry,
) -> None:
    def asks(msg: Cat, context: RequestContext | None = None) -> None: ...
    def tells(msg: Cat, session: Optional[IpcSession] = None) -> None: ...  # noqa: UP045
    def scales(msg: Cat, scale: int | None = None) -> None: ...

    assert second(registry, asks) == "context"
    assert second(registry, tells) == "session"
    assert second(registry, scales) == ""


def test_a_second_parameter_with_a_default_is_the_handlers_own(registry: HandlerRegistry) -> None:
    assert second(registry, optional_second) == ""


def test_a_context_with_a_default_is_given_nevertheless(registry: HandlerRegistry) -> None:
    def handler(msg: Cat, ctx: RequestContext = None) -> None: ...  # type: ignore[assignment]

    assert second(registry, handler) == "context"


# Refused


def no_parameter() -> None: ...
def three(a: Cat, b: Any, c: Any) -> None: ...
def keyword(msg: Cat, *, must: int) -> None: ...
def number(msg: int) -> None: ...
def several(msg: list[Cat]) -> None: ...
def maybe(msg: Optional[Cat]) -> None: ...  # noqa: UP045
def misspelt(msg: Unknown) -> None: ...


async def coroutine(msg: Cat) -> None: ...


async def asynchronous_generator(msg: Cat) -> Any:
    yield 1


class AsyncCallable:
    async def __call__(self, msg: Cat) -> None: ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (no_parameter, "must take the message"),
        (three, "no other that is required"),
        (keyword, "no other that is required"),
        (number, "not a Message type"),
        (several, "not a Message type"),
        (maybe, "not a Message type"),
        (misspelt, r"can't be resolved .*@session\.on_request\(MyMessage\)"),
        (coroutine, "no event loop"),
        (asynchronous_generator, "no event loop"),
        (functools.partial(coroutine), "no event loop"),
        (AsyncCallable(), "no event loop"),
        (int, "not a Message type"),
        (7, "takes a function or a type"),
        ("text", "takes a function or a type"),
    ],
)
def test_what_cant_be_a_handler_is_refused_at_registration(
    registry: HandlerRegistry, function: Any, why: str
) -> None:
    with pytest.raises(TypeError, match=why):
        registry.register(function)
    assert not registry


def _wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Service:
    """Methods as their class has them: nobody is self."""

    def handle(self, msg: Cat) -> None: ...
    def alone(self): ...  # type: ignore[no-untyped-def]
    def with_context(self, msg: Cat, ctx: RequestContext) -> None: ...
    def generates(self, msg: Cat) -> Any:
        yield

    async def coroutine(self, msg: Cat) -> None: ...
    def of_class(cls, msg: Cat) -> None: ...  # noqa: N805 - @classmethod comes later

    wrapped = _wrapped(handle)
    unnamed = lambda self, msg: None  # noqa: E731
    as_classmethod = classmethod(lambda cls, msg: None)

    class Inner:
        def handle(self, msg: Cat) -> None: ...


@pytest.mark.parametrize(
    "method",
    [*[name for name in vars(Service) if not name.startswith("_") and name != "Inner"], "Inner"],
)
@pytest.mark.parametrize("with_type", [True, False])
def test_a_method_that_no_object_is_bound_to_is_refused_with_advice(
    registry: HandlerRegistry, method: str, with_type: bool
) -> None:
    function = Service.Inner.handle if method == "Inner" else vars(Service)[method]
    register = registry.register(Cat) if with_type else registry.register

    with pytest.raises(TypeError, match=r"is a method .*session\.on_request\(self\.\w+|<lambda>"):
        register(function)
    assert not registry


def test_a_decorator_on_a_method_fails_as_the_class_is_defined(registry: HandlerRegistry) -> None:
    with pytest.raises(TypeError, match=r"Mistaken\.handle\(\) is a method .*\(self\.handle\) in"):

        class Mistaken:
            @registry.register
            def handle(self, msg: Cat) -> None: ...


def test_what_looks_like_a_method_and_is_bound_or_none_is_a_handler(
    registry: HandlerRegistry,
) -> None:
    def free(self): ...  # type: ignore[no-untyped-def]

    class Group:
        """A namespace; some like it."""

        @registry.register
        def cat(msg: Cat) -> None: ...  # noqa: N805

        @staticmethod
        @registry.register
        def dog(msg: Dog) -> None: ...

        @registry.register
        @staticmethod
        def stone(msg: Stone) -> None: ...

        @registry.register
        def annotated(self: Cat) -> None: ...

    for handler in (free, Service().handle, Service().wrapped, functools.partial(Group.cat)):
        registry.register(handler)

    assert len(registry.find(Cat)) == 6


def test_a_type_that_is_no_message_is_refused_before_there_is_a_handler(
    registry: HandlerRegistry,
) -> None:
    with pytest.raises(TypeError, match="not a Message type"):
        registry.register(int | str)


def test_taking_back_what_is_not_registered_is_an_error(registry: HandlerRegistry) -> None:
    registry.register(cat)
    registry.register(Dog)(cat)
    registry.remove(cat)

    assert takes(registry) == []
    with pytest.raises(ValueError, match=r"cat\(\) is not registered with on_request"):
        registry.remove(cat)


def test_exception_handlers_are_picked_by_the_exceptions_type() -> None:
    registry = HandlerRegistry(BaseException, "on_exception")

    def lookup(error: LookupError) -> None: ...
    def any_error(error: Exception) -> None: ...

    registry.register(lookup)
    registry.register(any_error)
    assert [h.function for h in registry.find(KeyError)] == [lookup, any_error]
    assert [h.function for h in registry.find(ValueError)] == [any_error]
    assert registry.find(KeyboardInterrupt) == ()


def test_no_handler_is_lost_when_threads_register_at_the_same_time() -> None:
    registry = HandlerRegistry(Message, "on_message")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    start = threading.Barrier(4)

    def register() -> None:
        start.wait()
        for _ in range(50):
            registry.register(Cat)(lambda msg: None)
            registry.find(Cat)

    try:
        threads = [threading.Thread(target=register) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    assert len(registry.find(Cat)) == 200


def test_outside_of_a_handler_there_is_no_current_request() -> None:
    assert current_request() is None


def test_a_builtin_that_tells_nothing_about_itself_takes_any_message(
    registry: HandlerRegistry,
) -> None:
    registry.register(max)

    assert [handler.function for handler in registry.find(Stone)] == [max]


def test_a_type_variable_with_a_bound_stands_for_its_bound(registry: HandlerRegistry) -> None:
    bound = TypeVar("bound", bound=Cat)

    def handle(msg: Any) -> None: ...

    handle.__annotations__["msg"] = bound
    registry.register(handle)

    assert registry.find(Cat)
    assert not registry.find(Dog)


def test_a_generic_message_is_taken_whatever_is_in_it(registry: HandlerRegistry) -> None:
    def handle(msg: Box[Cat]) -> None: ...

    registry.register(handle)

    assert registry.find(Box)
    assert not registry.find(Cat)


def test_an_object_that_tells_its_signature_itself_is_believed(registry: HandlerRegistry) -> None:
    class Append:
        """Its call is written in C, which has no names that an annotation could mean."""

        __call__ = staticmethod([].append)
        __signature__ = inspect.Signature(
            [inspect.Parameter("msg", inspect.Parameter.POSITIONAL_ONLY, annotation="Local")]
        )

    class Local(Message):
        pass

    registry.register(Append())

    assert registry.find(Local)
    assert not registry.find(Cat)
