# docker build --build-arg VERSION=$(git describe --tags --always) -t produce-agent .
# docker run --rm -i -e KAFKA_API_KEY -e KAFKA_API_SECRET produce-agent ship -t logs --rest-endpoint https://… --cluster-id lkc-… < app.log
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/produce-agent ./cmd/produce-agent
# Dead letters go to the working folder, the sandbox's records to /tmp.
RUN mkdir -p /out/root/tmp /out/data && chmod 1777 /out/root/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/root/ /
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/produce-agent /usr/local/bin/produce-agent
USER 65532:65532
WORKDIR /data
ENTRYPOINT ["/usr/local/bin/produce-agent"]
