#!/usr/bin/env bash
# Everything that can be said about the code without running it. `just check`, and the first half of `.ci/run`.
#
#   scripts/check.sh                 every part
#   scripts/check.sh fmt clippy      these only; the parts are: fmt scripts docs leaks clippy doc cut deny unused sqlx
#
# All parts run, also after one has failed; the last line counts them.
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh
source scripts/lib/tools.sh

check_fmt() { cargo fmt --all --check -- --color never; }

# The same set of features as the tests: what clippy has checked of the dependencies is checked once.
check_clippy() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

# RUSTDOCFLAGS reach rustdoc only; RUSTFLAGS would make cargo build everything a second time.
check_doc() { RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items; }

# Who depends on whom. The cut between our crates is held by deny.toml; this is what cargo-deny can't say.
check_cut() {
    local crate bad=0 reached
    # The rules of the platform know no runtime, no database, no network, no random source.
    reached=$(cargo tree --locked -p domain -e normal --prefix none --format '{p}' | awk '{print $1}' | sort -u)
    for crate in tokio mio async-std smol sqlx sqlx-core axum hyper reqwest tungstenite bollard git2 rand rand_core getrandom \
        tracing-subscriber iana-time-zone; do
        if grep -x "$crate" <<<"$reached" >/dev/null; then
            say "crates/domain depends on $crate; see: cargo tree -p domain -e normal -i $crate"
            bad=1
        fi
    done
    # A second TLS provider makes rustls refuse to choose at run time.
    if cargo tree --locked --workspace -e normal,build -i ring 2>/dev/null | grep '^ring v'; then
        say "ring is in the tree; aws-lc-rs is our one TLS provider"
        bad=1
    fi
    # The shim is the static program that outlives the agent; it stays that small.
    reached=$(cargo tree --locked -p shim -e normal --prefix none --format '{p}' | awk '{print $1}' | sort -u | grep -vxE 'shim|libc' || true)
    if [[ -n $reached ]]; then
        say "crates/shim may depend on libc only, and has: $reached"
        bad=1
    fi
    return "$bad"
}

check_deny() { run_tool cargo-deny --locked check --hide-inclusion-graph bans licenses sources; }

check_unused() { run_tool cargo-shear; }

# Every query of `store` stands in .sqlx as PostgreSQL answers it today, and nothing else does.
check_sqlx() { scripts/sqlx-prepare.sh --check; }

check_scripts() {
    local script
    for script in scripts/*.sh scripts/lib/*.sh deploy/*.sh deploy/test/*.sh .ci/run; do bash -n "$script"; done
    run_tool shellcheck scripts/*.sh scripts/lib/*.sh deploy/*.sh deploy/test/*.sh .ci/run
}

# Every test, planted defect and fault that docs/reliability.md names is there: a claim whose test is gone is no claim.
# shellcheck disable=SC2016 # the patterns have Markdown's backticks in them
check_docs() {
    local document=docs/reliability.md bad=0 rows name known
    rows=$scratch/rows
    grep '^|' "$document" >"$rows"
    # missing WHAT NAME: it is named, and there is none.
    missing() {
        say "$document names $1 $2, and there is none"
        bad=1
    }
    known=$scratch/known
    # A test is a function under an attribute that ends in `test`; other attributes may stand between the two.
    grep -rhE -A4 '#\[([a-z_]+::)?test\b' crates --include='*.rs' | sed -nE 's/.*\bfn ([a-z0-9_]+)\(.*/\1/p' | sort -u >"$known"
    while read -r name; do
        grep -qx "$name" "$known" || missing "the test" "$name"
    done < <(
        # In a table everything in `code` is a test, unless it says what else it is; elsewhere what can be nothing else.
        {
            sed -E 's/(planted|simulation) `[^`]*`//g' "$rows" | grep -oE '`[a-z][a-z0-9]*_[a-z0-9_]+`'
            grep -oE '`[a-z0-9]+(_[a-z0-9]+){3,}`' "$document" | grep -vxFf <(grep -oE 'planted `[^`]*`' "$rows" | cut -d ' ' -f 2)
        } | tr -d '`' | sort -u
    )
    while read -r name; do
        grep -rqw "$name" crates/sim --include='*.rs' || missing "of the simulation" "$name"
    done < <(grep -oE '(planted|simulation) `[^`]*`' "$rows" | cut -d '`' -f 2 | sort -u)
    while read -r name; do
        grep -rqF "Scenario::new(\"$name\"" crates/chaos/src/scenarios || missing "the fault" "$name"
    done < <(
        grep -oE '\bF[0-9]{2}(-F[0-9]{2})?\b' "$rows" | tr -d F | while IFS=- read -r from to; do
            seq -f 'F%02g' "$((10#$from))" "$((10#${to:-$from}))"
        done | sort -u
    )
    [[ -s $known && -s $rows ]] || return 1
    return "$bad"
}

# What must never be committed. Looks at what Git knows, and at what is about to be added.
check_leaks() {
    local files bad=0
    files=$scratch/files
    git ls-files --cached --others --exclude-standard -z -- ':!scripts/check.sh' >"$files"
    # finds WHAT PATTERN: every hit is a fault.
    finds() {
        local hits
        hits=$(xargs -0 -a "$files" grep -nIHE -e "$2" 2>/dev/null | cut -c 1-200 || true)
        [[ -n $hits ]] || return 0
        printf '%s:\n%s\n' "$1" "$hits"
        bad=1
    }
    finds "a path of one machine" '(^|[^A-Za-z0-9_.$}~-])/(work|root|Users)/[A-Za-z0-9._-]+|/home/(runner|ubuntu|vagrant|debian)/'
    finds "a private key" '-----BEGIN ([A-Z ]+ )?PRIVATE KEY-----'
    finds "a token or key of a known form" \
        '(AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|glpat-[A-Za-z0-9_-]{20}|xox[abprs]-[A-Za-z0-9-]{20}|AIza[0-9A-Za-z_-]{35}|ud_(node|key|api)_[A-Za-z0-9_-]{32,})'
    finds "an address of a private package index" '(index-url|extra-index-url|registry) *= *"?https?://'
    return "$bad"
}

all=(fmt scripts docs leaks clippy doc cut deny unused sqlx)
parts=("$@")
((${#parts[@]})) || parts=("${all[@]}")
passed=0 failed=0
for part in "${parts[@]}"; do
    declare -F "check_$part" >/dev/null || die "unknown part: $part" "One of: ${all[*]}"
done
if [[ " ${parts[*]} " == *" sqlx "* ]]; then need postgresql postgres_bin; fi
need_rust
need_build
install_missing
for part in "${parts[@]}"; do
    started=$(now_ms)
    log=$scratch/$part.log
    # A subshell of its own with errexit on: in a condition bash would ignore a failing command in the middle.
    set +e
    (
        set -e
        trap - EXIT
        "check_$part"
    ) >"$log" 2>&1 </dev/null
    code=$?
    set -e
    if ((code == 0)); then
        passed=$((passed + 1))
        printf 'ok      %-10s %s\n' "$part" "$(took "$started")"
    else
        failed=$((failed + 1))
        tail -n 200 "$log" | sed 's/^/  | /'
        printf 'FAILED  %-10s %s\n' "$part" "$(took "$started")"
    fi
done
say "checks: $passed passed, $failed failed"
((failed == 0))
