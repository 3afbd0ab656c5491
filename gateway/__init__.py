"""An async, event-driven webhook gateway that deploys Docker images the moment they are pushed."""
