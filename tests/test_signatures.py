"""Whoever holds the secret is let in, and nobody else, whatever bytes he sends."""

import base64
import hmac
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Unauthenticated
from gateway.signatures import prove_basic, prove_bearer, prove_hmac, prove_token

BODY = b"Hello, World!"


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def test_the_secret_itself_is_proof() -> None:
    prove_token("s3cret", "s3cret")
    prove_bearer("Bearer s3cret", "s3cret")
    prove_bearer("bearer  s3cret", "s3cret")
    prove_basic(basic("anyone:s3cret"), "s3cret")


def test_a_secret_beyond_ascii_is_compared_as_bytes() -> None:
    prove_token("geheimnisvoll ü", "geheimnisvoll ü")
    prove_token(b"\xc3\xbc".decode("ascii", "surrogateescape"), "ü")
    prove_basic(basic("ü:pass:wört"), "pass:wört")


def test_the_signature_of_the_documentation_is_proof() -> None:
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

    prove_hmac(signature, "It's a Secret to Everybody", BODY, prefix="sha256=")


def test_other_algorithms_sign_without_prefix() -> None:
    prove_hmac(hmac.new(b"s3cret", BODY, "sha1").hexdigest(), "s3cret", BODY, algorithm="sha1")


@pytest.mark.parametrize("sent", [None, "", "S3cret", "s3cret ", "s3cre", "s3crets", "\udcff", "ü", "\0"])
def test_anything_but_the_secret_is_refused(sent: str | None) -> None:
    for prove in (prove_token, prove_bearer, prove_basic):
        with pytest.raises(Unauthenticated):
            prove(sent, "s3cret")
    with pytest.raises(Unauthenticated):
        prove_hmac(sent, "s3cret", BODY)


@pytest.mark.parametrize(
    ("prove", "sent"),
    [
        (prove_bearer, "Bearer"),
        (prove_bearer, "Bearer wrong"),
        (prove_bearer, basic("anyone:s3cret")),
        (prove_bearer, "s3cret"),
        (prove_basic, basic("anyone:wrong")),
        (prove_basic, basic("s3cret")),
        (prove_basic, basic("s3cret:")),
        (prove_basic, "Basic s3cret"),
        (prove_basic, "Basic ü"),
        (prove_basic, "Basic !!!!"),
        (prove_basic, "Bearer s3cret"),
    ],
)
def test_a_login_of_another_kind_is_refused(prove: Callable[[str, str], None], sent: str) -> None:
    with pytest.raises(Unauthenticated):
        prove(sent, "s3cret")


def test_an_endpoint_without_secret_lets_nobody_in() -> None:
    unkeyed = hmac.new(b"", BODY, "sha256").hexdigest()

    with pytest.raises(Unauthenticated):
        prove_hmac(unkeyed, "", BODY)
    with pytest.raises(Unauthenticated):
        prove_token("", "")


@settings(deadline=None)
@given(st.binary(), st.text(min_size=1))
def test_no_header_value_does_more_than_be_refused(raw: bytes, secret: str) -> None:
    sent = raw.decode("utf-8", "surrogateescape")
    for prove in (prove_token, prove_bearer, prove_basic):
        try:
            prove(sent, secret)
        except Unauthenticated:
            continue
        assert secret in sent or prove is prove_basic
