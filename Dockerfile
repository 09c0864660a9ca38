# vistune in a container: `make image`, or `make image DEVICE=cuda`.
#
#     docker run --rm -v "$PWD/runs:/work/runs" vistune:cpu ssl
#     docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/work/runs" vistune:cuda ssl
#     docker run --rm -v "$PWD/runs:/work/runs" --entrypoint vistune-report vistune:cpu show ssl
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# cpu: PyTorch's own index, 200 MB. cuda: PyPI, whose torch brings CUDA; the host needs only a driver.
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/vistune
COPY constraints-cpu.txt constraints-cuda.txt ./
RUN case "${DEVICE}" in cpu|cuda) ;; *) echo "DEVICE=${DEVICE} must be cpu or cuda" >&2; exit 2 ;; esac \
    && { [ "${DEVICE}" = cuda ] || pip install --no-deps $(sed -n 's/^#  *pip install --no-deps \(--index-url .*\)/\1/p' constraints-cpu.txt); } \
    && pip install --no-deps -r "constraints-${DEVICE}.txt"

COPY . .
RUN pip install --no-deps --no-build-isolation .

# Studies are written to /work/runs, as this user; pass --user "$(id -u):$(id -g)" to own them.
ENV HOME=/tmp/home USER=vistune VISTUNE_CACHE=/work/runs/.cache
RUN mkdir -p /work/runs /tmp/home && chmod 1777 /work /work/runs /tmp/home
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["vistune"]
CMD ["--help"]
