# One image for all commands: `serve` (the default), `status-service`, `browse`, …
#     docker build -t storage-ledger:local .
#     docker run --rm storage-ledger:local --help
# The same base in both stages: the virtual environment that the first makes runs on the Python of the second.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY locks/ locks/
# Wheels only: nothing of somebody else's is run while the image is built, and no compiler is needed. The build backend is
# of a locked version, too, and stays outside the environment that is taken along.
RUN python -m venv --without-pip /opt/storage-ledger \
    && pip --python /opt/storage-ledger/bin/python install --only-binary :all: --require-hashes -r locks/run.txt \
    && pip install --only-binary :all: --require-hashes -c locks/dev.txt hatchling
COPY LICENSE README.md migrations.ini pyproject.toml ./
COPY alembic/ alembic/
COPY storage_ledger/ storage_ledger/
RUN python -m hatchling build --target wheel --directory dist \
    && pip --python /opt/storage-ledger/bin/python install --no-deps dist/*.whl \
    && pip --python /opt/storage-ledger/bin/python check


FROM python:3.13-slim
# Who the process is and who owns the data folders below, from which Docker takes the owner of a fresh named volume.
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
# Patients' data: nothing for others. What is put into uploads gets its group, whoever puts it there. /backup is where the
# how-tos mount a folder or a volume for backups of the ledger.
RUN install -d -o "${STORAGE_UID}" -g "${STORAGE_GID}" -m 0750 /app/archive /app/ledger /app/cache /backup \
    && install -d -o "${STORAGE_UID}" -g "${STORAGE_GID}" -m 2770 /app/uploads
WORKDIR /app
USER ${STORAGE_UID}:${STORAGE_GID}
EXPOSE 8001 8003 8004
# That `serve` lives, not that all its neighbours do (/readyz tells that): what restarts unhealthy containers would else
# restart this one because Redis is away. Isolated and without site it takes 0.1 s. Other commands need a check of their own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-ISc", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('HTTP_PORT') or 8004), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["storage-ledger"]
CMD ["serve"]
