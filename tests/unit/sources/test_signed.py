"""Signatures, tokens and handshakes of registries prove what they say, and nothing more."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.sources import SOURCES, Handshake, Request, Trust
from tests.support.samples import OURS, Sample, named
from tests.unit.sources.test_samples import ENVELOPED

ECR, ACR, GOOGLE = SOURCES["ecr"], SOURCES["acr"], SOURCES["artifactregistry"]


def sample(source: str, name: str) -> Sample:
    return next(one for one in OURS if (one.source, one.name) == (source, name))


def with_body(one: Sample, **changed: object) -> Request:
    return replace(one.request, body=json.dumps({**json.loads(one.request.body), **changed}).encode())


# -- SNS

PUSH = sample("ecr", "sns_push")
CERTIFICATE = json.loads(PUSH.request.body)["SigningCertURL"]


@pytest.mark.parametrize("one", ENVELOPED, ids=named)
def test_the_signing_certificate_is_on_the_topic_s_host(one: Sample) -> None:
    assert list(one.request.keys) == ECR.keys(one.request, one.trust)


@pytest.mark.parametrize(
    "address",
    [
        CERTIFICATE.replace("https", "http"),
        CERTIFICATE.replace("eu-central-1", "us-east-1"),
        CERTIFICATE.replace("eu-central-1", "s3"),
        CERTIFICATE.replace(".com/", ".com.evil.example/"),
        CERTIFICATE.replace(".com/", ".com@evil.example/"),
        CERTIFICATE.replace(".com/", ".com:8443/"),
        CERTIFICATE.replace("sns.", "sns.evil.example/sns."),
        CERTIFICATE.replace("/Simple", "/../Simple"),
        CERTIFICATE + "?x",
        CERTIFICATE + "#x",
        CERTIFICATE + "\n",
        "",
        None,
        [],
    ],
)
def test_a_certificate_of_another_host_is_not_requested(address: object) -> None:
    request = with_body(PUSH, SigningCertURL=address)
    for ask in (ECR.keys, ECR.verify):
        with pytest.raises(Unauthenticated):
            ask(request, PUSH.trust)


@pytest.mark.parametrize("topic", ["", ",", "arn:aws:sns:eu-central-1:999999999999:ecr-pushes"])
def test_a_validly_signed_message_of_another_topic_is_rejected(topic: str) -> None:
    with pytest.raises(Unauthenticated):
        ECR.keys(PUSH.request, replace(PUSH.trust, settings={"topic": topic}))
    with pytest.raises(Unauthenticated):
        ECR.verify(PUSH.request, replace(PUSH.trust, settings={"topic": topic}))


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("ecr", {"topic": "*"}),
        ("ecr", {"topic": "ecr-pushes"}),
        ("ecr", {"topic": f"{json.loads(PUSH.request.body)['TopicArn']},arn:aws:s3:::bucket"}),
        ("ecr", {"replication": "yes"}),
        ("artifactregistry", {"email": ""}),
        ("artifactregistry", {"email": "a@example.com,b"}),
    ],
)
def test_an_invalid_setting_is_rejected(source: str, settings: Mapping[str, str]) -> None:
    with pytest.raises(InvalidInput):
        SOURCES[source].check_settings(settings)


@pytest.mark.parametrize("name", ["Message", "MessageId", "Timestamp", "TopicArn", "Type", "Subject", "Signature"])
@pytest.mark.parametrize("value", ["x", "", None, 1, {}])
def test_a_changed_signed_field_is_rejected(name: str, value: object) -> None:
    if (name, value) == ("Subject", None):
        return  # there is none
    with pytest.raises(Unauthenticated):
        ECR.verify(with_body(PUSH, **{name: value}), PUSH.trust)


def test_another_signature_version_or_another_key_is_rejected() -> None:
    (address,) = PUSH.request.keys
    for request in [
        with_body(PUSH, SignatureVersion="1"),
        with_body(PUSH, SignatureVersion="3"),
        replace(PUSH.request, keys={}),
        replace(PUSH.request, keys={address: b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"}),
    ]:
        with pytest.raises(Unauthenticated):
            ECR.verify(request, PUSH.trust)


@pytest.mark.parametrize("late", [timedelta(hours=2), timedelta(hours=-2)])
def test_a_message_of_another_time_is_rejected_as_a_replay(late: timedelta) -> None:
    with pytest.raises(Unauthenticated):
        ECR.verify(replace(PUSH.request, at=PUSH.request.at + late), PUSH.trust)


def test_the_last_repetition_of_an_hour_is_not_a_replay() -> None:
    ECR.verify(replace(PUSH.request, at=PUSH.request.at + timedelta(hours=1)), PUSH.trust)


def test_a_secret_does_not_replace_the_signature_of_an_envelope() -> None:
    proven = {"x-api-key": PUSH.trust.secret, "authorization": f"Bearer {PUSH.trust.secret}"}
    with pytest.raises(Unauthenticated):
        ECR.verify(replace(with_body(PUSH, Message="{}"), headers=proven), PUSH.trust)


def test_raw_delivery_is_rejected_without_the_secret() -> None:
    raw = sample("ecr", "sns_push_raw")
    ECR.verify(raw.request, raw.trust)
    with pytest.raises(Unauthenticated):
        ECR.verify(replace(raw.request, query={}), raw.trust)


def test_a_subscription_is_confirmed_and_an_unsubscription_is_not_answered() -> None:
    asked, ended = sample("ecr", "sns_confirmation"), sample("ecr", "sns_confirmation_of_an_end")

    visit = json.loads(asked.request.body)["SubscribeURL"]
    assert ECR.handshake(asked.request, asked.trust) == Handshake(visit=visit)
    assert ECR.handshake(ended.request, ended.trust) is None
    assert ECR.handshake(PUSH.request, PUSH.trust) is None


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/?Action=ConfirmSubscription&TopicArn=x",
        "https://sns.eu-central-1.amazonaws.com@evil.example/?Action=ConfirmSubscription&TopicArn=x",
        "https://sns.eu-central-1.amazonaws.com/?Action=DeleteTopic&TopicArn=x",
        "http://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x",
    ],
)
def test_no_other_address_is_visited(address: str) -> None:
    asked = sample("ecr", "sns_confirmation")
    with pytest.raises(Unauthenticated):
        ECR.handshake(with_body(asked, SubscribeURL=address), asked.trust)


# -- Google

TOLD = sample("artifactregistry", "push")
(ADDRESS,) = TOLD.request.keys


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def minted(key: RSAPrivateKey, *, alg: str = "RS256", kid: str = "k", **claims: object) -> Request:
    """The push, with a token that `key` signed and whose issuer publishes the key."""
    now = int(TOLD.request.at.timestamp())
    email = str(TOLD.trust.settings["email"]).rpartition(" ")[2]
    held: dict[str, object] = {
        "iss": "https://accounts.google.com",
        "aud": TOLD.trust.secret,
        "email": email,
        "email_verified": True,
        "iat": now - 10,
        "exp": now + 3590,
    }
    told = {name: value for name, value in {**held, **claims}.items() if value is not None}
    signed = f"{b64(json.dumps({'alg': alg, 'kid': kid}).encode())}.{b64(json.dumps(told).encode())}"
    signature = b64(key.sign(signed.encode(), PKCS1v15(), SHA256()))
    return bearing(f"{signed}.{signature}", key)


def bearing(token: str, key: RSAPrivateKey) -> Request:
    numbers = key.public_key().public_numbers()
    n, e = b64(numbers.n.to_bytes(256, "big")), b64(numbers.e.to_bytes(3, "big"))
    published = json.dumps({"keys": [{"kty": "EC", "kid": "k"}, {"kty": "RSA", "kid": "k", "n": n, "e": e}]})
    return replace(TOLD.request, headers={"authorization": f"Bearer {token}"}, keys={ADDRESS: published.encode()})


def test_a_token_for_the_audience_of_a_listed_account_is_accepted(key: RSAPrivateKey) -> None:
    GOOGLE.verify(minted(key), TOLD.trust)
    GOOGLE.verify(minted(key, iss="accounts.google.com"), TOLD.trust)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://accounts.google.com.evil.example"},
        {"iss": None},
        {"iss": []},
        {"aud": "https://elsewhere.example.com"},
        {"aud": None},
        {"aud": ["an audience of our own"]},
        {"email": "attacker@evil.iam.gserviceaccount.com"},
        {"email": None},
        {"email": ""},
        {"email": []},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": None},
        {"exp": 1},
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": True},
        {"iat": 9999999999},
        {"iat": None},
    ],
    ids=str,
)
def test_a_token_of_another_account_or_time_is_rejected(key: RSAPrivateKey, claims: Mapping[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        GOOGLE.verify(minted(key, **claims), TOLD.trust)


def test_a_token_with_another_algorithm_is_rejected(key: RSAPrivateKey) -> None:
    whole = minted(key).headers["authorization"].removeprefix("Bearer ")
    head, body, _ = whole.split(".")
    for request in [
        minted(key, alg="none"),
        minted(key, alg="HS256"),
        minted(key, kid="another"),
        bearing(f"{head}.{body}.", key),
        bearing(f"{head}.{body}", key),
        bearing("", key),
        bearing("a.b.c", key),
        replace(minted(key), keys={}),
        replace(minted(key), keys={ADDRESS: b'{"keys": 1}'}),
        replace(minted(key), keys=TOLD.request.keys),
        replace(minted(key), headers={}),
        replace(minted(key), headers={"authorization": f"Basic {whole}"}),
    ]:
        with pytest.raises(Unauthenticated):
            GOOGLE.verify(request, TOLD.trust)


def test_an_endpoint_without_accounts_accepts_its_secret_as_audience(key: RSAPrivateKey) -> None:
    GOOGLE.check_settings({})
    unnamed = replace(TOLD.trust, settings={})
    GOOGLE.verify(minted(key, email=None), unnamed)
    with pytest.raises(Unauthenticated):
        GOOGLE.verify(minted(key, aud="https://elsewhere.example.com"), unnamed)
    # Of an audience that anybody may know nobody is believed.
    known = {"audience": "https://gateway.example.com"}
    with pytest.raises(InvalidInput, match="needs email"):
        GOOGLE.check_settings(known)
    with pytest.raises(Unauthenticated):
        GOOGLE.verify(minted(key, aud=known["audience"]), replace(TOLD.trust, settings=known))


def test_no_key_is_requested_without_a_token() -> None:
    assert GOOGLE.keys(TOLD.request, TOLD.trust) == ["https://www.googleapis.com/oauth2/v3/certs"]
    with pytest.raises(Unauthenticated):
        GOOGLE.keys(replace(TOLD.request, headers={}), TOLD.trust)


@given(st.text() | st.binary().map(b64) | st.lists(st.binary().map(b64), max_size=4).map(".".join), st.binary())
def test_any_other_token_is_unauthenticated_with_any_keys(token: str, keys: bytes) -> None:
    request = replace(TOLD.request, headers={"authorization": f"Bearer {token}"}, keys={ADDRESS: keys})
    with pytest.raises(Unauthenticated):
        GOOGLE.verify(request, TOLD.trust)


# -- Event Grid


def test_a_token_of_azure_does_not_override_the_secret_in_the_address() -> None:
    told = sample("acr", "grid_push")
    token = {"authorization": "Bearer a.b.c"}
    ACR.verify(replace(told.request, headers=token, query={"secret": told.trust.secret}), told.trust)
    for query in ({}, {"secret": "another"}, {"secret": ""}):
        with pytest.raises(Unauthenticated):
            ACR.verify(replace(told.request, headers=token, query=query), told.trust)


def test_event_grid_gets_its_validation_code() -> None:
    asked = sample("acr", "grid_validation")
    code = json.loads(asked.request.body)[0]["data"]["validationCode"]
    assert ACR.handshake(asked.request, asked.trust) == Handshake(200, {"validationResponse": code})
    assert ACR.handshake(sample("acr", "grid_push").request, asked.trust) is None


def test_event_grid_is_allowed_to_send_cloudevents() -> None:
    request = Request({"webhook-request-origin": "eventgrid.azure.net"}, b"", method="OPTIONS")
    allowed = {"WebHook-Allowed-Origin": "eventgrid.azure.net", "WebHook-Allowed-Rate": "*"}
    assert ACR.handshake(request, Trust("s")) == Handshake(headers=allowed)


@pytest.mark.parametrize("origin", ["", "a b", "x\r\nSet-Cookie: a=b", "ü"])
def test_options_of_other_senders_are_not_allowed(origin: str) -> None:
    assert ACR.handshake(Request({"webhook-request-origin": origin}, b"", method="OPTIONS"), Trust("s")) is None
