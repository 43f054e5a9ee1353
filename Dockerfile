# syntax=docker/dockerfile:1
# The images of Holdfast. Targets: node, operator, e2e (the clients of the end-to-end tests).
#
#   docker build --target node -t holdfast/node:dev .
#
# Small (libc and certificates only, no shell), not root (uid and gid 65532), and the same bytes
# from the same commit. e2e/images.sh builds the same file without a container engine: there the
# stages `build` and `etcdctl` are replaced by folders with binaries built outside.

ARG BASE=gcr.io/distroless/cc-debian12:nonroot

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Paths of the build do not end up in the binaries.
ENV RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
RUN cargo build --locked --release -p holdfast-server -p holdfast-operator -p holdfast-e2e \
    && mkdir /out \
    && cd target/release \
    && strip --strip-all -o /out/holdfast-node holdfast-node \
    && strip --strip-all -o /out/holdfast-operator holdfast-operator \
    && strip --strip-all -o /out/holdfast-e2e holdfast-e2e

FROM docker.io/library/golang:1.26-bookworm AS etcdctl
WORKDIR /src
COPY bench/tools/etcd ./
RUN mkdir /out && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/etcdctl go.etcd.io/etcd/etcdctl/v3

FROM ${BASE} AS node
LABEL org.opencontainers.image.title="holdfast-node" \
      org.opencontainers.image.description="A node of a Holdfast cluster" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/holdfast-node /usr/local/bin/holdfast-node
# Memory that is not needed any more is given back at once: docs/decisions/2026-11-28-memory-is-given-back.md
ENV MIMALLOC_ALLOW_THP=0 MIMALLOC_PURGE_DELAY=0 MIMALLOC_PAGE_FULL_RETAIN=0
USER 65532:65532
EXPOSE 2379 2380 2381
ENTRYPOINT ["/usr/local/bin/holdfast-node"]

FROM ${BASE} AS operator
LABEL org.opencontainers.image.title="holdfast-operator" \
      org.opencontainers.image.description="Keeps Holdfast clusters on Kubernetes as their resources say" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/holdfast-operator /usr/local/bin/holdfast-operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/holdfast-operator"]

FROM ${BASE} AS e2e
LABEL org.opencontainers.image.title="holdfast-e2e" \
      org.opencontainers.image.description="Clients for the end-to-end tests of Holdfast" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=etcdctl /out/etcdctl /usr/local/bin/etcdctl
COPY --from=build /out/holdfast-e2e /usr/local/bin/holdfast-e2e
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/holdfast-e2e"]
