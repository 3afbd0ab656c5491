"""Which gateway watches which engine."""

from gateway.worker.shares import Shares, watcher

SERVERS = [f"s-{number}" for number in range(600)]


def test_each_gateway_watches_about_the_same_number_of_engines() -> None:
    shares = [watcher(server, [1, 2, 3]) for server in SERVERS]
    assert all(150 <= shares.count(member) <= 250 for member in (1, 2, 3))


def test_only_the_share_of_a_gateway_that_leaves_moves() -> None:
    before = {server: watcher(server, [1, 2, 3]) for server in SERVERS}
    after = {server: watcher(server, [1, 3]) for server in SERVERS}
    assert all(after[server] == before[server] for server in SERVERS if before[server] != 2)


def test_nobody_watches_without_gateways() -> None:
    assert watcher("s", []) is None


def test_a_gateway_watches_what_nobody_has_seen_for_a_while_and_its_own_engine_always() -> None:
    one = Shares()
    one.number = 1
    one.register(SERVERS)
    assert all(one.watches(server) for server in SERVERS), "alone, before it knows of others"
    moved = one.follow(frozenset({1, 2}), SERVERS, [], now=0.0)
    left = {server for server in SERVERS if not one.watches(server)}
    assert left == moved == {server for server in SERVERS if watcher(server, [1, 2]) == 2}
    assert one.watches(None)
    silent = min(left)
    assert one.follow(frozenset({1, 2}), SERVERS, [silent], now=1.0) == {silent}
    assert one.watches(silent)
    assert one.follow(frozenset({1, 2}), SERVERS, [], now=100.0) == {silent}
    assert one.follow(frozenset({1}), SERVERS, [], now=101.0) == left
