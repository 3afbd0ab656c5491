"""What the fields of a form give to a procedure, and which page follows."""

from gateway.dashboard.forms import _filled, _given


def test_what_is_empty_is_left_out_unless_its_name_says_that_it_counts() -> None:
    fields = {
        "form": "x",
        "then": "/",
        "tag": " ",
        "name!": "",
        "host?": " ",
        "aliases[]": "a\r\n\r\n b",
        "settings{}": "",
    }
    assert _given(fields) == {"name": "", "host": None, "aliases": ["a", "b"], "settings": {}}
    assert _given({"host?": " registry.example "}) == {"host": "registry.example"}


def test_the_page_of_what_was_made_follows() -> None:
    then = "/dashboard/applications/{applicationId}"
    assert _filled(then, {"applicationId": "a/../b?"}) == "/dashboard/applications/a%2F..%2Fb%3F"
    assert _filled("/dashboard", {"applicationId": "a"}) == "/dashboard"
    assert _filled(then, {"applicationId": None}) == then
