"""Only a sender who knows the secret is accepted, whatever bytes are sent."""

import base64
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.errors import Unauthenticated
from gateway.model.signatures import (
    verify_basic,
    verify_bearer,
    verify_credentials,
    verify_hmac,
    verify_standard_webhook,
    verify_token,
)

BODY = b"Hello, World!"


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def test_the_secret_itself_is_proof() -> None:
    verify_token("s3cret", "s3cret")
    verify_bearer("Bearer s3cret", "s3cret")
    verify_bearer("bearer  s3cret", "s3cret")
    verify_basic(basic("anyone:s3cret"), "s3cret")


def test_a_secret_beyond_ascii_is_compared_as_bytes() -> None:
    verify_token("geheimnisvoll ü", "geheimnisvoll ü")
    verify_token(b"\xc3\xbc".decode("ascii", "surrogateescape"), "ü")
    verify_basic(basic("ü:pass:wört"), "pass:wört")


def test_the_signature_of_the_documentation_is_proof() -> None:
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

    verify_hmac(signature, "It's a Secret to Everybody", BODY, prefix="sha256=")


def test_other_algorithms_sign_without_prefix() -> None:
    verify_hmac(hmac.new(b"s3cret", BODY, "sha1").hexdigest(), "s3cret", BODY, algorithm="sha1")


@pytest.mark.parametrize("sent", [None, "", "S3cret", "s3cret ", "s3cre", "s3crets", "\udcff", "ü", "\0"])
def test_anything_but_the_secret_is_refused(sent: str | None) -> None:
    for prove in (verify_token, verify_bearer, verify_basic):
        with pytest.raises(Unauthenticated):
            prove(sent, "s3cret")
    with pytest.raises(Unauthenticated):
        verify_hmac(sent, "s3cret", BODY)


@pytest.mark.parametrize(
    ("prove", "sent"),
    [
        (verify_bearer, "Bearer"),
        (verify_bearer, "Bearer wrong"),
        (verify_bearer, basic("anyone:s3cret")),
        (verify_bearer, "s3cret"),
        (verify_basic, basic("anyone:wrong")),
        (verify_basic, basic("s3cret")),
        (verify_basic, basic("s3cret:")),
        (verify_basic, "Basic s3cret"),
        (verify_basic, "Basic ü"),
        (verify_basic, "Basic !!!!"),
        (verify_basic, "Bearer s3cret"),
    ],
)
def test_a_login_of_another_kind_is_refused(prove: Callable[[str, str], None], sent: str) -> None:
    with pytest.raises(Unauthenticated):
        prove(sent, "s3cret")


def test_an_endpoint_without_a_secret_rejects_every_request() -> None:
    unkeyed = hmac.new(b"", BODY, "sha256").hexdigest()

    with pytest.raises(Unauthenticated):
        verify_hmac(unkeyed, "", BODY)
    with pytest.raises(Unauthenticated):
        verify_token("", "")


@settings(deadline=None)
@given(st.binary(), st.text(min_size=1))
def test_no_header_value_does_more_than_be_refused(raw: bytes, secret: str) -> None:
    sent = raw.decode("utf-8", "surrogateescape")
    for prove in (verify_token, verify_bearer, verify_basic):
        try:
            prove(sent, secret)
        except Unauthenticated:
            continue
        assert secret in sent or prove is verify_basic


def test_whichever_header_carries_the_secret_is_proof() -> None:
    for headers in (
        {"authorization": "Bearer s3cret"},
        {"authorization": "s3cret"},
        {"authorization": basic("anyone:s3cret")},
        {"x-other": "s3cret"},
        {"x-api-key": "s3cret", "x-other": "wrong"},
    ):
        verify_credentials(headers, "s3cret", "x-api-key", "x-other")
    for headers in ({}, {"authorization": "Token s3cret"}, {"authorization": "Bearer wrong", "x-other": "s3cret"}):
        with pytest.raises(Unauthenticated):
            verify_credentials(headers, "s3cret", "x-api-key", "x-other")


# From the libraries of https://github.com/standard-webhooks/standard-webhooks
STANDARD = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNED_AT = datetime.fromtimestamp(1614265330, UTC)


def test_a_standard_webhook_is_proven_within_five_minutes() -> None:
    for late in (-299, 0, 299):
        verify_standard_webhook(STANDARD, STANDARD_KEY, STANDARD_BODY, at=SIGNED_AT + timedelta(seconds=late))
    for late in (-301, 301):
        with pytest.raises(Unauthenticated):
            verify_standard_webhook(STANDARD, STANDARD_KEY, STANDARD_BODY, at=SIGNED_AT + timedelta(seconds=late))


def test_one_of_several_signatures_of_a_standard_webhook_suffices() -> None:
    both = STANDARD | {"webhook-signature": f"v1,c2lnbmVk v1a,eA== {STANDARD['webhook-signature']}"}
    verify_standard_webhook(both, STANDARD_KEY, STANDARD_BODY, at=SIGNED_AT)


@pytest.mark.parametrize(
    ("changed", "secret"),
    [
        ({"webhook-id": "another"}, STANDARD_KEY),
        ({"webhook-timestamp": "1614265331"}, STANDARD_KEY),
        ({"webhook-timestamp": ""}, STANDARD_KEY),
        ({"webhook-timestamp": "٣"}, STANDARD_KEY),
        ({"webhook-timestamp": "9" * 5000}, STANDARD_KEY),
        ({"webhook-signature": ""}, STANDARD_KEY),
        ({"webhook-signature": "v1," + base64.b64encode(hmac.digest(b"", b"", "sha256")).decode()}, ""),
        ({}, "whsec_"),
        ({}, "whsec_not base64"),
        ({}, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ],
)
def test_a_standard_webhook_of_another_key_or_message_is_refused(changed: dict[str, str], secret: str) -> None:
    with pytest.raises(Unauthenticated):
        verify_standard_webhook(STANDARD | changed, secret, STANDARD_BODY, at=SIGNED_AT)
