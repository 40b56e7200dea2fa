# The everyday commands. `just` lists them; get it with `cargo install just` or `apt-get install just`.

_default:
    @just --list --unsorted

# All checks that run no test, or the named ones: just check fmt clippy
check *parts:
    scripts/check.sh {{ parts }}

# All tests with real PostgreSQL, Docker and Git, or a part: just test -E 'package(store)'
[positional-arguments]
test *arguments:
    scripts/test.sh "$@"

# The platform on this machine and one task on it; --once stops it after the task
demo *arguments:
    scripts/demo.sh {{ arguments }}

# Break a platform on purpose and count what is lost: all faults, or `just chaos F06 F13`; --list names them (needs root)
[positional-arguments]
chaos *arguments:
    cargo build --quiet --locked -p unidesk -p shim -p chaos
    scripts/build-shim.sh
    ${CARGO_TARGET_DIR:-target}/debug/chaos "$@"

# Write the figures of docs/reliability.md from docs/reliability.jsonl; faults that are named are run first: just reliability-report F06 --real-times (needs root), or: all
[positional-arguments]
reliability-report *arguments:
    scripts/reliability-report.sh "$@"

# Kill services, agents and PostgreSQL N times at system calls and count what is lost: 10000 at night (needs root and strace)
kill-sweep kills="100" *arguments:
    cargo build --quiet --locked -p unidesk -p shim -p chaos
    scripts/build-shim.sh
    ${CARGO_TARGET_DIR:-target}/debug/chaos --kill-sweep {{ kills }} {{ arguments }}

# A task counts to sixty while its gateway, its agent and the database are killed; --fast in a tenth of the time
demo-unplug *arguments:
    scripts/demo-unplug.sh {{ arguments }}

# A data set in, a task on another node, a model out, with the object store killed twice: just demo-artifacts --mib 2000
demo-artifacts *arguments:
    scripts/demo-artifacts.sh {{ arguments }}

# The platform as an administrator installs it, with Docker Compose: set up, up, a task, files, more gateways, down and up
compose-test:
    scripts/compose-test.sh

# Rewrite .sqlx after a change of a query or a migration
sqlx:
    scripts/sqlx-prepare.sh

# Format everything
fmt:
    cargo fmt --all

# The whole system in virtual time, from so many fresh seeds: just sim 20000
sim seeds="2000":
    SIM_SEEDS={{ seeds }} cargo nextest run -p sim --no-capture -E 'test(fresh_seeds)'

# How many seeds it takes to find each defect that is planted
sim-power:
    cargo nextest run -p sim --no-capture -E 'test(planted::)'

# Measure everything and write the tables of docs/benchmarks.md, or one bench: just bench throughput --tasks 20000
[positional-arguments]
bench *arguments:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --release --quiet --locked -p unidesk -p shim -p bench
    scripts/build-shim.sh --release
    built=${CARGO_TARGET_DIR:-target}/release
    if (($#)); then exec "$built/unidesk-bench" "$@"; fi
    rm -f "$built/bench.jsonl"
    "$built/unidesk-bench" --json "$built/bench.jsonl" all
    cargo bench --quiet --locked -p domain --bench placement
    "$built/unidesk-bench" tables "$built/bench.jsonl" --into docs/benchmarks.md

# Half an hour at full speed while old tasks are deleted: does the database stay bounded? Shorter: just soak --minutes 5
[positional-arguments]
soak *arguments:
    cargo build --release --quiet --locked -p unidesk -p shim -p bench
    ${CARGO_TARGET_DIR:-target}/release/unidesk-bench soak "$@"

# The full load while services and PostgreSQL are killed: nothing may be lost, doubled or stuck. Others: just faults --kills scheduler,postgres
[positional-arguments]
faults *arguments:
    cargo build --release --quiet --locked -p unidesk -p shim -p bench
    ${CARGO_TARGET_DIR:-target}/release/unidesk-bench faults "$@"

# What one task costs in row writes, statements and bytes: fails when it became more (2 minutes, nothing depends on time)
bench-smoke:
    cargo build --quiet --locked -p unidesk -p shim -p bench
    ${CARGO_TARGET_DIR:-target}/debug/unidesk-bench smoke

# The figures of containers and of the first start (needs Docker and Git)
bench-up:
    cargo build --release --locked -p shim
    cargo bench --locked -p unidesk --bench figures

# A psql in the tests' PostgreSQL server (a failed test says which database it left)
psql *arguments:
    psql "$(scripts/test-database.sh)" {{ arguments }}

# End the tests' PostgreSQL server, which otherwise ends by itself after ten idle minutes
stop-database:
    scripts/test-database.sh stop

# What CI runs
ci:
    .ci/run
