"""The bigger corpus of recorded requests: each sample means what stands beside it, and proves who sent it."""

import re
from dataclasses import replace

import pytest

from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.model.signatures import verify_hmac
from gateway.sources import SOURCES, Trust
from tests.support.each_case import each_case
from tests.support.samples import (
    CORPUS,
    SENT,
    SENT_NAMES,
    Outcome,
    Sample,
    attachment,
    corpus,
    expected_of,
    outcome,
    outcome_of,
    refuse_unknown,
    trust_of,
)

SIGNATURE = re.compile(r"(sha\d+=)?[0-9a-f]{40,128}|v1,.+")
MALFORMED = corpus("malformed")


def is_signed(folder: str, sample: Sample) -> bool:
    headers = sample.request.headers
    # A header of a sender's own choosing may hold what looks like a signature.
    return folder == "sns" or any(SIGNATURE.fullmatch(headers[name]) for name in headers if "id" not in name)


SIGNED = [
    (folder, sample) for folder, sample in SENT if sample.about["_meta"]["expect_deploy"] and is_signed(folder, sample)
]
SIGNED_NAMES = [f"{folder}-{sample.name}" for folder, sample in SIGNED]


@each_case(("folder", "sample"), SENT, ids=SENT_NAMES)
def test_a_sample_of_the_corpus_deploys_what_it_says(folder: str, sample: Sample) -> None:
    deploys, expected = sample.about["_meta"]["expect_deploy"], expected_of(sample, CORPUS[folder])
    made, notification = outcome(sample, CORPUS[folder])
    told = [(str(event.reference), event.digest) for event in notification.events]
    ignored = {one.reference.partition("@")[0] for one in notification.ignored}

    assert made in outcome_of(sample)
    if deploys:
        assert told == expected
    elif deploys is False:
        assert told == []
    if made is Outcome.PARSED and not deploys:
        # Nothing that the sample names goes unanswered: it is a push, or ignored with a reason.
        assert {name.partition("@")[0] for name, _ in expected} <= ignored | {name for name, _ in told}


@each_case(("folder", "sample"), SENT, ids=SENT_NAMES)
def test_a_sample_of_the_corpus_is_known_by_the_id_in_its_body(folder: str, sample: Sample) -> None:
    made, notification = outcome(sample, CORPUS[folder])
    sent, event_id = sample.about["_meta"].get("delivery_id"), notification.event_id
    if made is not Outcome.PARSED or sent is None:
        return
    match sent:
        case []:
            assert event_id is None
        case [one]:
            assert event_id == one
        case [*_]:  # the ids of all its events are one key, or the body is
            assert event_id is None or event_id.startswith("sha256:")
        case _:
            # An id in a header that nobody signs is no key.
            assert event_id == sent or (event_id is None and sent in sample.request.headers.values())


@each_case(("folder", "sample"), SIGNED, ids=SIGNED_NAMES)
def test_one_tampered_byte_of_a_sample_of_the_corpus_is_noticed(folder: str, sample: Sample) -> None:
    source, trust = SOURCES[sample.source], trust_of(sample, CORPUS[folder])
    source.verify(sample.request, trust)
    body = sample.request.body
    # The end of an SNS envelope is not signed.
    for index in (0, len(body) // 4, len(body) // 3):
        tampered = body[:index] + bytes([body[index] ^ 1]) + body[index + 1 :]
        with pytest.raises(Unauthenticated):
            source.verify(replace(sample.request, body=tampered), trust)


@pytest.mark.parametrize("source", SOURCES)
@each_case("sample", MALFORMED, ids=[sample.name for sample in MALFORMED])
def test_a_malformed_sample_of_the_corpus_deploys_nothing(source: str, sample: Sample) -> None:
    try:
        told = SOURCES[source].parse(sample.request, Trust("s")).events
    except InvalidInput:
        told = ()
    assert told == ()


def test_the_signature_vector_of_the_corpus_holds() -> None:
    if vector := attachment("ghcr", "_signature_test_vector"):
        secret = vector.about["_meta"]["note"].removeprefix("secret: ")
        verify_hmac(vector.request.headers["x-hub-signature-256"], secret, vector.request.body, prefix="sha256=")


@pytest.mark.parametrize("about", [{"headers": {}, "expect": {}}, {"headers": {}, "_meta": {"expect_status": 200}}])
def test_a_field_that_no_test_reads_is_refused(about: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no test reads"):
        refuse_unknown(about, "sample")
