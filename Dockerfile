# Two stages: the first installs the pinned packages and lists them, the second contains only what runs.
# BASE is any Debian with Python 3.11 or newer, with its digest; wheels in wheels/ build it without an index.
# The same sources and base make the same files: their time is SOURCE_DATE_EPOCH, and compiled modules have none in them.
ARG BASE=python:3.13.14-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8

FROM ${BASE} AS build
COPY requirements.txt requirements-sbom.txt wheels* /src/wheels/
RUN if ls /src/wheels/*.whl >/dev/null 2>&1; then OFFLINE="--no-index --find-links /src/wheels"; fi \
    && for name in gateway sbom; do python3 -m venv /opt/$name || exit 1; done \
    && INSTALL="install --no-cache-dir --no-compile ${OFFLINE:-} --no-deps --require-hashes" \
    && /opt/gateway/bin/pip $INSTALL -r /src/wheels/requirements.txt \
    && /opt/sbom/bin/pip $INSTALL -r /src/wheels/requirements-sbom.txt
COPY pyproject.toml /src/
COPY gateway /src/gateway
COPY migrations /src/gateway/_migrations
ARG SOURCE_DATE_EPOCH=0
RUN cp -r /src/gateway "$(/opt/gateway/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && printf '#!/bin/sh\nexec /opt/gateway/bin/python -m gateway "$@"\n' > /opt/gateway/bin/gateway \
    && chmod 755 /opt/gateway/bin/gateway \
    && ln -s gateway /opt/gateway/bin/pushdeploy \
    && find /opt/gateway -name __pycache__ -prune -exec rm -r {} + \
    && PYTHONHASHSEED=0 /opt/gateway/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gateway/lib \
    && mkdir /opt/gateway/share \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible --no-validate --pyproject /src/pyproject.toml \
        --mc-type application --output-format JSON --output-file /opt/gateway/share/sbom.cdx.json /opt/gateway/bin/python \
    && chmod -R u+rwX,go+rX,go-w /opt/gateway \
    && find /opt/gateway -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM ${BASE}
ARG SOURCE_DATE_EPOCH=0
COPY --from=build /opt/gateway /opt/gateway
# It writes the day into /etc/shadow, which is that of SOURCE_DATE_EPOCH.
RUN SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH useradd --uid 10001 --user-group --home-dir /data --create-home gateway
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_LISTEN=0.0.0.0:8080 PYTHONUNBUFFERED=1
# Pass the socket's group at run time: docker run --group-add, compose group_add.
USER gateway
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python3", "-c", "import os, urllib.request as web; host, _, port = os.environ['GATEWAY_LISTEN'].rpartition(':'); web.urlopen('http://{}:{}/healthz'.format(host.replace('0.0.0.0', '127.0.0.1'), port), timeout=2)"]
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=1970-01-01T00:00:00Z
ARG BASE
LABEL org.opencontainers.image.title="Pushdeploy" \
    org.opencontainers.image.description="Deploys Docker images the moment they are pushed." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.base.name="${BASE}"
ENTRYPOINT ["gateway"]
CMD ["serve"]
