"""Health checks and probes. It performs no I/O."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from gateway.model.field_descriptions import DescribedModel

_MILLISECOND = 10**6  # nanoseconds: the minimum of the engine
_FORMS = frozenset({"NONE", "CMD", "CMD-SHELL"})
_PATH = re.compile(r"/[^\s#]*")

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _validate_test(test: list[str]) -> list[str]:
    if test and (test[0] not in _FORMS or (test[0] == "NONE") != (len(test) == 1)):
        raise ValueError('one of ["NONE"], ["CMD", word, …] and ["CMD-SHELL", line] is needed; [] keeps the image\'s')
    return test


def _validate_nanoseconds(nanoseconds: int) -> int:
    if 0 < nanoseconds < _MILLISECOND:
        raise ValueError("this is in nanoseconds, and the engine's minimum is a millisecond: 1000000")
    return nanoseconds


_Nanoseconds = Annotated[int, Field(ge=0, le=2**63 - 1), AfterValidator(_validate_nanoseconds)]


class HealthCheck(TypedDict, total=False):
    """A HEALTHCHECK that overrides the image's, in the format of the Docker Engine. Durations are nanoseconds.

    An absent field keeps the image's value:
    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
    """

    __pydantic_config__ = ConfigDict(hide_input_in_errors=True, extra="forbid")  # type: ignore[misc]  # pydantic looks for it here
    Test: Annotated[list[str], AfterValidator(_validate_test)] | None
    Interval: _Nanoseconds | None
    Timeout: _Nanoseconds | None
    StartPeriod: _Nanoseconds | None
    Retries: Annotated[int, Field(ge=0, le=2**31 - 1)] | None


class Probe(DescribedModel):
    """A request that the gateway sends to the application. If `status` is null, any status from 200 to 399 passes."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
    )

    type: Literal["http", "tcp"] = "http"
    port: Annotated[int, Field(ge=1, le=65535)]
    path: Annotated[str, Field(max_length=2048)] | None = None
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    interval: Annotated[float, Field(ge=0.1, le=3600)] = 1
    """Seconds between two requests."""
    timeout: Annotated[float, Field(ge=0.1, le=600)] = 5
    """Seconds to wait for an answer."""

    @model_validator(mode="after")
    def _http_alone(self) -> Self:
        if self.type == "tcp" and (self.path is not None or self.status is not None):
            raise ValueError("path and status need an http probe; a tcp probe only connects")
        if self.path is not None and not _PATH.fullmatch(self.path):
            raise ValueError(f"path {self.path!r} is not the path of a URL, for example /health?full=1")
        return self

    def accepts(self, status: int) -> bool:
        return status == self.status if self.status is not None else 200 <= status < 400  # noqa: PLR2004 - HTTP's
