"""docs/logs.md lists the events that the code logs."""

from tests.scripts.log_events import PAGE, events, made


def test_the_page_lists_each_event_with_its_fields() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == made(page), "run `make logs`"
    assert ("Cancelled", "info", "") in events()
