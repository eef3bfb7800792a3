# One image, two programs: `plimsoll-exporter` (DaemonSet) and `plimsoll-scaler` (Deployment).
# NVML is not in it: the NVIDIA container runtime mounts libnvidia-ml.so.1 of the node's driver.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements.lock .
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
COPY scaler scaler
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
EXPOSE 9480 9481 6000 9482
CMD ["plimsoll-exporter"]
