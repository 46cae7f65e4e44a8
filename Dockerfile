# A static binary in an empty image, run by a user without rights. Build it with the version that
# `rollcall version` should print:
#
#   docker build --build-arg VERSION="$(git describe --tags --always --dirty)" -t rollcall .
#
# There is no HEALTHCHECK: it would need another program in the image. Ask /livez and /readyz of the
# admin port from outside, as deploy/kubernetes does: with ROLLCALL_ADMIN_LISTEN=0.0.0.0:8788 and
# ROLLCALL_ADMIN_TOKEN_FILE. Until then that port is on the container's own loopback.

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
ARG TARGETOS=linux
ARG TARGETARCH=amd64
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/rollcall ./cmd/rollcall
# /out/data is here so that the volume begins with the right owner and permissions.
RUN mkdir -p -m 0700 /out/data && cp LICENSE NOTICE /out/

FROM scratch
LABEL org.opencontainers.image.title="rollcall" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/rollcall /rollcall
COPY --from=build /out/LICENSE /LICENSE
COPY --from=build /out/NOTICE /NOTICE
COPY --from=build --chown=65532:65532 /out/data /var/lib/rollcall
USER 65532:65532
ENV ROLLCALL_LISTEN=0.0.0.0:8787 \
    ROLLCALL_ADMIN_LISTEN=127.0.0.1:8788 \
    ROLLCALL_DATA_DIR=/var/lib/rollcall
# 8787 is for daemons and clients. 8788 is for operators: do not publish it to the internet.
EXPOSE 8787 8788
VOLUME /var/lib/rollcall
# SIGTERM drains; the default of 10 s before SIGKILL is too short for it: run with --stop-timeout 30.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/rollcall"]
CMD ["serve"]
