# syntax=docker/dockerfile:1
# The worker, and the other commands of brook-worker. Nothing secret goes into it: settings come when it runs.
#   docker build --tag brook-worker .
#   docker run --read-only --env-file worker.env brook-worker            # brook-worker run
#   docker run --read-only --env-file worker.env brook-worker provision --check
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /build
COPY deploy/docker/install.sh pyproject.toml constraints.txt ./
# On their own, so that a change of the sources does not install them again.
RUN ./install.sh dependencies /opt/brook-worker
COPY README.md LICENSE ./
COPY schemas schemas
COPY brook_client brook_client
COPY emulator emulator
COPY worker worker
RUN ./install.sh worker /opt/brook-worker

FROM ${PYTHON}
LABEL org.opencontainers.image.title="brook-worker" \
      org.opencontainers.image.description="Append worker for event sourcing on Azure" \
      org.opencontainers.image.licenses="MIT"
# By number, so that Kubernetes can see that it is not root. It owns nothing and has no home: the image is read only.
RUN groupadd --system --gid 10001 brook \
 && useradd --system --uid 10001 --gid brook --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin brook
COPY --from=build /opt/brook-worker /opt/brook-worker
# /metrics, /healthz, /readyz and /scaling: reachable from outside the container, for Prometheus and KEDA.
ENV PATH=/opt/brook-worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BROOK_WORKER_HTTP_HOST=0.0.0.0 \
    BROOK_WORKER_HTTP_PORT=9464
EXPOSE 9464
USER 10001:10001
WORKDIR /opt/brook-worker
# brook-worker drains on SIGTERM for drain_grace_s, 25 s by default, and ends a second later at the latest: whatever stops
# the container must wait longer than that (`docker stop --time 40`, stop_grace_period, terminationGracePeriodSeconds).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD exec python -m worker.probe "http://127.0.0.1:${BROOK_WORKER_HTTP_PORT}/healthz"
ENTRYPOINT ["brook-worker"]
CMD ["run"]
