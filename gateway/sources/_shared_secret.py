"""Verify a shared secret of registries whose operator chooses where the sender puts it."""

from gateway.model.signatures import verify_credentials, verify_token
from gateway.sources._source import Request, Trust

_PARAMETER = "secret"


def verify_secret(request: Request, trust: Trust, *names: str) -> None:
    """Check the secret in the query, `?secret=`, else in the Authorization header or in a header of `names`.

    Raises Unauthenticated.
    """
    # The query goes first: Azure, and OAuth connections of AWS, also send a token of their own in Authorization.
    if _PARAMETER in request.query:
        verify_token(request.query[_PARAMETER], trust.secret)
    else:
        verify_credentials(request.headers, trust.secret, *names)
