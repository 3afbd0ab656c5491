"""A secret shared with the sender, for registries that let their operator choose where it stands."""

from gateway.signatures import prove_credentials, prove_token
from gateway.sources._source import Request, Trust

_PARAMETER = "secret"


def prove_secret(request: Request, trust: Trust, *names: str) -> None:
    """The secret in an Authorization header or in one of `names`, or else in the address, as `?secret=`."""
    if not request.headers.keys().isdisjoint({"authorization", *names}):
        prove_credentials(request.headers, trust.secret, *names)
    else:
        prove_token(request.query.get(_PARAMETER), trust.secret)
