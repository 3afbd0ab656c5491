"""docs/llms.txt is made from the documents."""

from tests.scripts.llms import DOCS, made


def test_what_programs_read_lists_the_pages_as_they_are() -> None:
    assert (DOCS / "llms.txt").read_text(encoding="utf-8") == made(), "run `make llms`"
