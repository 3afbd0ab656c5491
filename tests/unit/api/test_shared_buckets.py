"""Token buckets in memory that processes share."""

import os
from collections.abc import Iterator

import pytest

from gateway.api.ingress.shared_buckets import SharedBuckets


@pytest.fixture
def pair() -> Iterator[tuple[SharedBuckets, SharedBuckets]]:
    """The table as two processes have it: each through a mapping of its own."""
    one = SharedBuckets.create()
    other = SharedBuckets(os.dup(one.descriptor))
    yield one, other
    one.close()
    other.close()


def test_what_one_takes_another_does_not_have(pair: tuple[SharedBuckets, SharedBuckets]) -> None:
    one, other = pair
    slow = 0.001  # tokens a second
    taken = [pair[number % 2].take("/a", slow, 10) for number in range(12)]
    assert [wait > 0 for wait in taken] == [False] * 10 + [True] * 2
    assert 0 < other.take("/a", slow, 10) <= 1 / slow
    assert one.take("/b", slow, 10) == 0


def test_a_lowered_bucket_is_lower_for_all(pair: tuple[SharedBuckets, SharedBuckets]) -> None:
    one, other = pair
    assert one.take("/a", 0.001, 10_000) == 0
    one.lower("/a", 1)
    assert [other.take("/a", 0.001, 2) > 0 for _ in range(2)] == [False, True]


def test_more_buckets_than_rows_discard_those_used_the_longest_ago(pair: tuple[SharedBuckets, SharedBuckets]) -> None:
    one, _ = pair
    for number in range(50_000):
        one.take(f"/{number}", 0.001, 1)
    assert one.take("/49999", 0.001, 1) > 0
