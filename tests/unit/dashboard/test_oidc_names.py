"""Nobody gives themselves the name of another person."""

from typing import Any

import pytest

from gateway.dashboard.oidc_issuer import name_of

_EMAIL = {"sub": "person-1", "email": "anna@example.com"}


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"email_verified": True}, "anna@example.com (OpenID)"),
        ({"email_verified": "true"}, "anna@example.com (OpenID)"),
        ({}, "person-1 (OpenID)"),
        ({"email_verified": "false"}, "person-1 (OpenID)"),
        ({"email_verified": [True]}, "person-1 (OpenID)"),
        ({"email_verified": True, "email": ["anna@example.com"]}, "person-1 (OpenID)"),
        ({"preferred_username": "root@example.com"}, "root@example.com, person-1 (OpenID)"),
        ({"preferred_username": {"name": "anna"}}, "person-1 (OpenID)"),
    ],
)
def test_a_name_that_the_issuer_does_not_vouch_for_is_shown_with_the_subject(claims: dict[str, Any], name: str) -> None:
    assert name_of({**_EMAIL, **claims}) == name
