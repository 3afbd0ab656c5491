"""All cases of a test are tried, and those that fail are shown."""

import asyncio
import inspect

import pytest

from tests.support.each_case import each_case


def test_every_case_is_tried_and_those_that_fail_are_named() -> None:
    tried = []

    @each_case("number", range(4), ids=str)
    def odd(number: int) -> None:
        tried.append(number)
        if number == 0:
            with pytest.raises(KeyError):
                pass
        assert number % 2

    with pytest.raises(BaseExceptionGroup, match="2 of 4 cases failed") as caught:
        odd()  # type: ignore[call-arg]  # the cases are given to it
    assert tried == [0, 1, 2, 3]
    assert [error.__notes__ for error in caught.value.exceptions] == [["in the case 0"], ["in the case 2"]]


def test_a_coroutine_gets_its_cases_and_its_fixtures() -> None:
    got = []

    @each_case(("first", "second"), [(1, 2), (3, 4)])
    async def pair(first: int, fixture: str, second: int) -> None:
        got.append((first, second, fixture))

    assert list(inspect.signature(pair).parameters) == ["fixture"]
    asyncio.run(pair(fixture="f"))  # type: ignore[call-arg]  # the cases are given to it
    assert got == [(1, 2, "f"), (3, 4, "f")]
