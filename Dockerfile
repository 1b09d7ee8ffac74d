# syntax=docker/dockerfile:1.7
# One image with every program; docker-compose.yml selects one by its name.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive a build, but are not part of the image: hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bins \
        -p order-api -p outbox-relay -p inventory-worker -p all-in-one \
    && mkdir /out \
    && cp target/release/order-api target/release/outbox-relay \
          target/release/inventory-worker target/release/all-in-one /out/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home outbox
COPY --from=build /out/ /usr/local/bin/
USER outbox
# One heap for all threads: with one for each thread, glibc keeps some 10 MB more, depending on the
# load.
ENV MALLOC_ARENA_MAX=1
# Containers are reached over their network; outside a container the programs listen on the loopback
# address only.
ENV ORDER_API_LISTEN=0.0.0.0:8080 \
    ORDER_API_ADMIN_LISTEN=0.0.0.0:8083 \
    RELAY_ADMIN_LISTEN=0.0.0.0:8081 \
    WORKER_ADMIN_LISTEN=0.0.0.0:8082
# Load balancers notice within this time that an instance is stopping.
ENV ORDER_API_DRAIN_DELAY=5s
EXPOSE 8080 8081 8082 8083
CMD ["order-api"]
