"""Client for the Docker Engine, and the two runtimes built on it: containers and Swarm services. No database."""
