"""Client for image registries: https://github.com/opencontainers/distribution-spec"""
