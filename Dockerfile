# Two stages: the first installs the pinned packages, the second contains only what runs.
# BASE is any Debian with Python 3.11 or newer, best with its digest; wheels in wheels/ build it without an index.
# What is installed gets the time SOURCE_DATE_EPOCH, and compiled modules have none in them.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
COPY requirements.txt wheels* /src/wheels/
RUN python3 -m venv /opt/gateway \
    && if ls /src/wheels/*.whl >/dev/null 2>&1; then OFFLINE="--no-index --find-links /src/wheels"; fi \
    && /opt/gateway/bin/pip install --no-cache-dir --no-compile ${OFFLINE:-} --no-deps --require-hashes -r /src/wheels/requirements.txt
COPY gateway /src/gateway
COPY migrations /src/gateway/_migrations
ARG SOURCE_DATE_EPOCH=0
RUN cp -r /src/gateway "$(/opt/gateway/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && printf '#!/bin/sh\nexec /opt/gateway/bin/python -m gateway "$@"\n' > /opt/gateway/bin/gateway \
    && chmod 755 /opt/gateway/bin/gateway \
    && ln -s gateway /opt/gateway/bin/pushdeploy \
    && find /opt/gateway -name __pycache__ -prune -exec rm -r {} + \
    && PYTHONHASHSEED=0 /opt/gateway/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gateway/lib \
    && find /opt/gateway -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM ${BASE}
COPY --from=build /opt/gateway /opt/gateway
RUN useradd --uid 10001 --user-group --home-dir /data --create-home gateway
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_LISTEN=0.0.0.0:8080 PYTHONUNBUFFERED=1
# Pass the socket's group at run time: docker run --group-add, compose group_add.
USER gateway
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Pushdeploy" \
    org.opencontainers.image.description="Deploys Docker images the moment they are pushed." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
ENTRYPOINT ["gateway"]
CMD ["serve"]
