"""Client for the Docker Engine API. Each module covers one kind of resource."""
