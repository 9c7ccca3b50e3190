# Everything but the stream: flows and their worker, and the Prefect and MLflow servers. Build from the root:
#
#     docker build --file deploy/train.Dockerfile --tag statecast-train .
#
# PIP_ARGS says where torch is to come from, as for `make setup`.

FROM python:3.11-slim-bookworm AS build
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /build
COPY constraints.txt ./
# split into words on purpose
# hadolint ignore=SC2086
RUN /venv/bin/pip install $PIP_ARGS -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY pipeline pipeline
COPY flows flows
# hadolint ignore=SC2086
RUN /venv/bin/pip install $PIP_ARGS -c constraints.txt '.[servers]'

FROM python:3.11-slim-bookworm
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DO_NOT_TRACK=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_HOME=/tmp/prefect MPLCONFIGDIR=/tmp/matplotlib HOME=/tmp
COPY --from=build /venv /venv
WORKDIR /app
# flows are found by their path below the folder from which they were deployed
COPY --from=build /build/models models
COPY --from=build /build/pipeline pipeline
COPY --from=build /build/flows flows
COPY deploy/prefect.yaml deploy/prefect.yaml
USER 1000:1000
CMD ["statecast", "--help"]
