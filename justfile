# The commands of docs/development.md. `just` lists the recipes; each is one command that also
# works without just.

[private]
default:
    @just --list --unsorted

# Run the whole system on an embedded DynamoDB and SQS
up *args:
    cargo run --release -p all-in-one -- {{ args }}

# Run the gate: formatting, alerts, chart, workflows, documents, lints, documentation, tests
ci:
    .ci/run

# Format the code with the nightly rustfmt that rustfmt.toml is written for
fmt:
    cargo +nightly fmt --all

# Run clippy as the gate does
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Build the API documentation as the gate does, warnings being errors
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Check that what the documents mention exists: links, files, tests, metrics, variables, options
check-docs:
    docs/check

# Run all tests, or those that the arguments select: just test -p outbox-relay --test it sweeping
test *args:
    cargo test {{ if args == "" { "--workspace" } else { "" } }} --locked {{ args }}

# Run the relay's simulation: 2,000 seeds, or one seed with its history: just sim 42
sim seed="":
    {{ if seed == "" { "" } else { "SIM_SEED=" + seed } }} cargo test -p outbox-relay --test simulation --locked every_guarantee_holds_for_every_seed -- --nocapture

# Run the relay's simulation with the seeds 0 to count-1: just sims 20000
sims count="20000":
    SIM_SEEDS={{ count }} cargo test -p outbox-relay --test simulation --locked every_guarantee_holds_for_every_seed -- --nocapture

# Break real processes under load and check every invariant: just chaos --duration 10m --seed 1
chaos *args:
    cargo run --release -p all-in-one -- chaos {{ args }}

# Drive the console in a headless Chromium (needs chromium and chromedriver)
browser:
    cargo test -p all-in-one --test browser --locked -- --ignored

# Run the benchmarks: draining a backlog, and the console beside 1,000,000 events
bench:
    cargo bench -p outbox-relay --bench drain --locked
    cargo bench -p outbox-relay --bench console --locked

# Check the Prometheus configuration and the alerts (needs promtool)
alerts:
    promtool check config deploy/prometheus/prometheus.yml
    promtool test rules deploy/prometheus/alerts_test.yml

# Check the Helm chart (needs Go and pip)
chart:
    deploy/helm/check

# Check the workflows (needs Go and shellcheck)
workflows:
    .ci/check-workflows

# Check licences, sources and banned crates (needs cargo-deny)
deny:
    cargo deny check bans licenses sources
