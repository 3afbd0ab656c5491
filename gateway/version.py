"""The version of the gateway, which pyproject.toml has too. Reading it from there would cost each command its time."""

VERSION = "0.1.0"
