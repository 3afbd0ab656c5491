"""One test of many cases. All are tried, and each that fails is shown with its name.

`pytest.mark.parametrize` makes a test of each case: every worker collects all of them, and to set up, run and report
one takes more of a processor than a cheap case does. `each_case` is for hundreds of cheap ones. They share the
fixtures of their test, so no case may leave there what disturbs the next.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])


class _Failures:
    """Keeps what fails, and raises all of it at the end."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._errors: list[BaseException] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            error.add_note(f"in the case {name}")
            self._errors.append(error)

    def raise_all(self) -> None:
        if self._errors:
            raise BaseExceptionGroup(f"{len(self._errors)} of {self._count} cases failed", self._errors)


def each_case(
    names: str | tuple[str, ...], cases: Iterable[Any], *, ids: Collection[str] | Callable[[Any], str] | None = None
) -> Callable[[Test], Test]:
    """Give each case to the test, as `pytest.mark.parametrize` does; without a case the test is skipped."""
    arguments = (names,) if isinstance(names, str) else names
    given = [dict(zip(arguments, (case,) if isinstance(names, str) else case, strict=True)) for case in cases]
    if not given:
        return pytest.mark.skip(reason="there is no case")
    if ids is None:
        known = [", ".join(map(repr, one.values())) for one in given]
    else:
        known = [ids(one[arguments[0]]) for one in given] if callable(ids) else list(ids)
    tried = list(zip(known, given, strict=True))

    def decorate(test: Test) -> Test:
        @wraps(test)
        def run(**fixtures: Any) -> None:
            failures = _Failures(len(tried))
            for name, case in tried:
                with failures.of(name):
                    test(**fixtures, **case)
            failures.raise_all()

        @wraps(test)
        async def run_async(**fixtures: Any) -> None:
            failures = _Failures(len(tried))
            for name, case in tried:
                with failures.of(name):
                    await test(**fixtures, **case)
            failures.raise_all()

        made: Any = run_async if inspect.iscoroutinefunction(test) else run
        signature = inspect.signature(test)
        # What remains are the fixtures, for which pytest reads the signature.
        left = [one for name, one in signature.parameters.items() if name not in arguments]
        made.__signature__ = signature.replace(parameters=left)
        return made  # type: ignore[no-any-return]  # a function of the same kind

    return decorate
