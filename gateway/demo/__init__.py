"""The real parts a demonstration needs, private to it: an engine, a registry, images. Tests use them too."""
