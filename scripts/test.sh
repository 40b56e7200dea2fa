#!/usr/bin/env bash
# Every test, with real PostgreSQL, Docker, Git over HTTP and S3. Installs and starts what is missing, and stops what it started.
#
#   scripts/test.sh                            everything; the last line is the count: N passed, N failed
#   scripts/test.sh -E 'package(store)'        arguments are nextest's own: a part, quickly
#
# Any one test also runs without this script: `cargo nextest run -p store` starts its own PostgreSQL, and needs only a
# Docker daemon where a test runs containers.
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh
source scripts/lib/docker.sh

passed=0 failed=0
broken=()
# The last line, whatever has happened; what broke without a test to show for it counts as a failure.
finish() {
    failed=$((failed + ${#broken[@]}))
    ((${#broken[@]} == 0)) || printf 'broken: %s\n' "${broken[@]}"
    say "$passed passed, $failed failed"
    ((failed == 0 && passed > 0)) || exit 1
    exit 0
}
part() { printf '== %-9s %s\n' "$1" "$2"; }

started=$(now_ms)
need_rust
cargo nextest --version >/dev/null 2>&1 || die "cargo-nextest is missing" "cargo install --locked cargo-nextest"
need_build
need_platform
[[ -n ${UNIDESK_TEST_WEED:-} ]] || need python3-pip python3 -m pip --version
# The kill sweep's trap has a test of its own.
need strace have strace
# Dashboards and alerts are asked of a real one.
need prometheus have promtool
install_missing
part machine "$(describe_machine), Rust $rust_version   $(took "$started")"

started=$(now_ms)
start_docker
ensure_test_image
how=$(ensure_base_image)
part docker "$(docker version --format '{{.Server.Version}}')${docker_pid:+, started for this run}; $base_image $how   $(took "$started")"

started=$(now_ms)
if [[ -z ${UNIDESK_TEST_DATABASE_URL:-} ]]; then
    # A server that is there already may be about to end for want of work: the suites of Docker alone take longer than it waits.
    if [[ -n ${CI:-} ]]; then scripts/test-database.sh stop; fi
    UNIDESK_TEST_DATABASE_URL=$(UNIDESK_TEST_DATABASE_IDLE=7200 scripts/test-database.sh)
    export UNIDESK_TEST_DATABASE_URL
    # A developer's next run finds it running; on a machine of CI nothing stays behind.
    if [[ -n ${CI:-} ]]; then at_exit "scripts/test-database.sh stop"; fi
fi
part database "PostgreSQL $("$(postgres_bin)/postgres" --version | awk '{print $3}')   $(took "$started")"

started=$(now_ms)
# Before the tests, whose time is short for a download.
weed=$(scripts/test-seaweedfs.sh) || die "SeaweedFS could not be had" "the lines above say why; a binary of your own: UNIDESK_TEST_WEED"
part objects "$("$weed" version | awk '{print "SeaweedFS " $3}')   $(took "$started")"

# Tests start the platform and the shim as programs, which nextest alone would not build. All in one build with the tests, so
# that no dependency is built with two sets of features; for named packages only what they may start.
started=$(now_ms)
selection=(--workspace)
programs=(--workspace --bins --tests)
for argument in "$@"; do
    case $argument in -p | --package | -p?* | --package=*)
        selection=()
        programs=(-p shim)
        [[ " $* " != *e2e* ]] || programs+=(-p unidesk)
        ;;
    esac
done
scripts/build-shim.sh || broken+=("the static shim")
cargo build --locked "${programs[@]}" || {
    broken+=("the build")
    finish
}
part build "cargo build ${programs[*]}   $(took "$started")"

started=$(now_ms)
containers() { docker ps -aq --no-trunc --filter label=unidesk.instance | sort; }
containers >"$scratch/containers"
report=${CARGO_TARGET_DIR:-target}/nextest/ci/junit.xml
rm -f "$report"
code=0
cargo nextest run --locked --profile ci "${selection[@]}" "$@" || code=$?
# The report is the count; nextest's code is the verdict. Each must agree with the other.
if [[ -s $report ]]; then
    totals=$(grep -m 1 '<testsuites ' "$report")
    number() { grep -oE " $1=\"[0-9]+\"" <<<"$totals" | grep -oE '[0-9]+'; }
    not_passed=$(($(number failures) + $(number errors)))
    passed=$((passed + $(number tests) - not_passed))
    failed=$((failed + not_passed))
    ((code == 0 || not_passed > 0)) || broken+=("nextest ended with $code though no test failed")
    ((code != 0 || not_passed == 0)) || broken+=("nextest ended with 0 though $not_passed tests failed")
else
    broken+=("nextest ran no test (code $code)")
fi
part tests "cargo nextest run   $(took "$started")"

# Examples in the documentation; nextest does not run those.
if (($# == 0)); then
    started=$(now_ms)
    code=0
    cargo test --locked --workspace --doc --quiet --no-fail-fast >"$scratch/doc.log" 2>&1 || code=$?
    doc_passed=$(awk '/^test result:/ {n += $4} END {print n + 0}' "$scratch/doc.log")
    doc_failed=$(awk '/^test result:/ {n += $6} END {print n + 0}' "$scratch/doc.log")
    passed=$((passed + doc_passed))
    failed=$((failed + doc_failed))
    if ((code != 0)); then
        cat "$scratch/doc.log"
        ((doc_failed > 0)) || broken+=("the documentation's examples (code $code)")
    fi
    part examples "cargo test --doc: $doc_passed passed, $doc_failed failed   $(took "$started")"
fi

# A test that was killed leaves its container behind. Removed on a machine of CI; elsewhere they may be those of a platform
# that runs beside the tests, so they are only named.
mapfile -t leftover < <(containers | comm -13 "$scratch/containers" -)
if ((${#leftover[@]})); then
    warn "containers that came with this run and are still there:"
    docker inspect --format '  {{.Name}} {{.State.Status}} {{.Config.Labels}}' "${leftover[@]}" >&2
    if [[ -n ${CI:-} ]]; then docker rm -f "${leftover[@]}" >/dev/null; fi
fi
finish
