# The stream alone: numpy and onnxruntime behind HTTP, without torch, polars, Prefect and MLflow. Build from the root:
#
#     docker build --file deploy/stream.Dockerfile --tag statecast-stream .
#
# tests/test_stream_image.py serves with these packages and what they need, and no others.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /build
COPY constraints.txt ./
RUN /venv/bin/pip install -c constraints.txt \
    fastapi h11 numpy onnxruntime orjson prometheus-client starlette typer uvicorn
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY pipeline pipeline
COPY flows flows
RUN /venv/bin/pip install --no-deps .

FROM python:3.11-slim-bookworm
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /venv /venv
WORKDIR /app
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["statecast", "serve"]
CMD ["--host", "0.0.0.0", "--token-file", "/run/secrets/stream_token"]
