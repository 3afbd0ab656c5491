"""An async, event-driven webhook gateway that deploys Docker images the moment they are pushed."""

from gateway import without_rich  # noqa: F401 - before anything imports structlog
