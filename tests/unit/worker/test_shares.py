"""Which gateway watches which engine."""

from gateway.worker.shares import watcher

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
