# One image for all commands: `serve` (the default), `status-service`, `browse`, …
#     docker build -t storage-ledger:local .
#     docker run --rm storage-ledger:local --help
# Both stages have the same base: the virtual environment of the first runs on the Python of the second. PYTHON_IMAGE may name it
# with its digest.

ARG PYTHON_IMAGE=python:3.13-slim
# hadolint ignore=DL3006 # the argument has the tag
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY locks/ locks/
# Wheels only: the build runs no foreign code and needs no compiler. The build backend has a locked version too, and stays
# out of the environment that is copied to the final image.
RUN python -m venv --without-pip /opt/storage-ledger \
    && pip --python /opt/storage-ledger/bin/python install --only-binary :all: --require-hashes -r locks/run.txt \
    && pip install --only-binary :all: --require-hashes -c locks/dev.txt hatchling
COPY LICENSE README.md migrations.ini pyproject.toml ./
COPY alembic/ alembic/
COPY storage_ledger/ storage_ledger/
RUN python -m hatchling build --target wheel --directory dist \
    && pip --python /opt/storage-ledger/bin/python install --no-deps dist/*.whl \
    && pip --python /opt/storage-ledger/bin/python check
# The packages inside, as CycloneDX, and their licences. C libraries that a wheel bundles are not in the former.
RUN python -m venv --without-pip /opt/notices \
    && pip --python /opt/notices/bin/python install --only-binary :all: --require-hashes -r locks/image.txt \
    && install -d /opt/storage-ledger/share/doc/storage-ledger \
    && cd /opt/storage-ledger/share/doc/storage-ledger \
    && /opt/notices/bin/cyclonedx-py environment --output-file sbom.cdx.json /opt/storage-ledger/bin/python \
    && /opt/notices/bin/pip-licenses --python /opt/storage-ledger/bin/python --format plain-vertical --with-urls --with-license-file \
       --with-notice-file --no-license-path --output-file THIRD-PARTY-NOTICES.txt


# hadolint ignore=DL3006 # as above
FROM ${PYTHON_IMAGE}
# The user of the process and owner of the data folders below; a new named volume gets its owner from them.
ARG STORAGE_UID=10001
ARG STORAGE_GID=10001
ARG VERSION=unreleased
LABEL org.opencontainers.image.title="storage-ledger" \
      org.opencontainers.image.description="An event-sourced archive for described DICOM studies" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/storage-ledger/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/storage-ledger /opt/storage-ledger
# Patient data: no access for other users. Files put into uploads get the folder's group (setgid). The how-tos mount a
# folder or volume for ledger backups at /backup.
RUN install -d -o "${STORAGE_UID}" -g "${STORAGE_GID}" -m 0750 /app/archive /app/ledger /app/cache /app/viewer /app/witness /backup \
    && install -d -o "${STORAGE_UID}" -g "${STORAGE_GID}" -m 0700 /app/key \
    && install -d -o "${STORAGE_UID}" -g "${STORAGE_GID}" -m 2770 /app/uploads
WORKDIR /app
USER ${STORAGE_UID}:${STORAGE_GID}
EXPOSE 8001 8003 8004
# Checks that `serve` is alive, not that its neighbours are (that is /readyz): otherwise an orchestrator would restart it
# whenever Redis is unreachable. `-ISc` keeps it to 0.1 s. Other commands need their own check.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-ISc", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('HTTP_PORT') or 8004), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["storage-ledger"]
CMD ["serve"]
