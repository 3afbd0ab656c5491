"""The registries: what a tag names now. See https://github.com/opencontainers/distribution-spec"""
