"""A secret shared with the sender, for registries that let their operator choose where it stands."""

from gateway.model.signatures import verify_credentials, verify_token
from gateway.sources._source import Request, Trust

_PARAMETER = "secret"


def prove_secret(request: Request, trust: Trust, *names: str) -> None:
    """The secret in the address, as `?secret=`, or else in an Authorization header or in one of `names`."""
    # Azure and OAuth connections of AWS send a token of their own in Authorization besides.
    if _PARAMETER in request.query:
        verify_token(request.query[_PARAMETER], trust.secret)
    else:
        verify_credentials(request.headers, trust.secret, *names)
