# syntax=docker/dockerfile:1

# One image holds every binary that runs in a cluster: the manager, the node
# agent, and what the agent copies to its node: the guard, and the runtime
# wrapper, which is also the gate that target pods wait in.

ARG GO_VERSION=1.26.6
FROM golang:${GO_VERSION} AS build
WORKDIR /src
# A module proxy of the builder's own; unset means the toolchain's default.
ARG GOPROXY
ARG VERSION=dev
# Build tags. "failpoints" makes the variant that the fault tests run.
ARG TAGS
COPY go.mod go.sum ./
COPY api/ api/
COPY cmd/ cmd/
COPY controllers/ controllers/
COPY internal/ internal/
COPY node-agent/ node-agent/
# Static binaries: the wrapper runs on the node, whose C library is not ours to
# choose, and the final image has none.
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -tags="${TAGS}" \
        -ldflags="-s -w -X main.version=${VERSION}" \
        -o /out/ ./cmd/manager ./cmd/godwit-runc ./cmd/godwit-guard ./node-agent && \
    mv /out/node-agent /out/agent

FROM scratch
COPY --from=build /out/ /usr/local/bin/
# The manager and the gate need no privilege. The agent's DaemonSet asks for
# root itself.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/manager"]
