#!/usr/bin/env bash
# The whole platform on this machine, and one task on it: pinned to two commits, run in Docker, followed to its end.
#
#   scripts/demo.sh           runs the task, then leaves the platform up until Ctrl-C
#   scripts/demo.sh --once    stops everything after the task and exits with the task's exit code
#
# Needs Debian or Ubuntu with Rust; what else is missing it names and installs. May be run again at any time: what is
# there already (packages, build, images, data) is used. Nothing outside its data directory and Docker is changed.
#
#   UNIDESK_DEMO_DIR    where the data is kept    (/var/lib/unidesk-demo, or ~/.local/share/unidesk-demo without root)
#   UNIDESK_DEMO_PORT   the platform's port       (7700; the Git server has the next one)
#   DEMO_PROFILE=dev    build without optimisation, which is quicker when tests have built that already
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh
source scripts/lib/docker.sh
source scripts/lib/demo_git.sh

once=false
case ${1:-} in
--once) once=true ;;
'') ;;
-h | --help)
    sed -n '2,/^source/{s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
*) die "unknown: $1" "scripts/demo.sh [--once]" ;;
esac

if ((EUID == 0)); then
    # Not in root's home: PostgreSQL runs as its own user and must be able to get there.
    data=${UNIDESK_DEMO_DIR:-/var/lib/unidesk-demo}
else
    data=${UNIDESK_DEMO_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/unidesk-demo}
fi
port=${UNIDESK_DEMO_PORT:-7700}
git_port=$((port + 1))

phase() { printf '%s/6 %-15s %s\n' "$1" "$2" "$3"; }
short() { printf '%s' "${1:0:8}"; }

say "UniDesk demo: one task, pinned to two commits, run in Docker on a node of its own."

# 1 ------------------------------------------------------------------------------------------------------------------
need_rust
for taken in $port $git_port; do
    port_is_free "$taken" || die "port $taken of this machine is in use" \
        "Another demo may be running; stop it with Ctrl-C, or take other ports: UNIDESK_DEMO_PORT=7800 scripts/demo.sh"
done
phase 1 "this machine" "$(describe_machine), Rust $rust_version"
need_build
need_platform
install_missing
start_docker
say "    Docker          $(docker version --format '{{.Server.Version}}')${docker_pid:+, started for this demo}"

# 2 ------------------------------------------------------------------------------------------------------------------
started=$(now_ms)
build=(cargo build --locked)
# All binaries and tests in one go, as scripts/test.sh builds them: the same features, so nothing is built twice.
if [[ ${DEMO_PROFILE:-release} == dev ]]; then
    build+=(--workspace --bins --tests)
    bin=${CARGO_TARGET_DIR:-target}/debug
else
    build+=(--release -p unidesk -p shim)
    bin=${CARGO_TARGET_DIR:-target}/release
fi
if [[ -t 1 ]]; then
    # A first build takes minutes: cargo's own progress is the best answer to "is it doing anything?".
    "${build[@]}" || die "the build failed" "The compiler's own words are above."
else
    quietly "the build" "${build[@]}"
fi
phase 2 "build" "${build[*]}   $(took "$started")"
PATH="$(cd "$bin" && pwd):$PATH"

# 3 ------------------------------------------------------------------------------------------------------------------
started=$(now_ms)
how=$(ensure_base_image)
phase 3 "base image" "$base_image: $how   $(took "$started")"

# 4 ------------------------------------------------------------------------------------------------------------------
started=$(now_ms)
mkdir -p "$data"
# A session of its own, so that Ctrl-C reaches this script first and the parts stop in order.
setsid unidesk up --data-dir "$data" --listen "127.0.0.1:$port" >"$scratch/up.out" 2>"$data/up.log" </dev/null &
platform=$!
at_exit "stop_process $platform 30"
if ! wait_until 60 eval "grep -q '^ready ' '$scratch/up.out' || ! kill -0 $platform" ||
    ! grep -q '^ready ' "$scratch/up.out"; then
    tail -n 30 "$data/up.log" | sed 's/^/  | /' >&2
    die "the platform did not become ready" "Its last words are above; all of them are in $data/up.log"
fi
# These two win over any login that is stored here, so that the demo never talks to somebody's real platform.
UNIDESK_URL=$(cat "$data/url")
UNIDESK_TOKEN=$(cat "$data/admin.token")
export UNIDESK_URL UNIDESK_TOKEN
phase 4 "platform" "server, PostgreSQL, node \"local\" in $(took "$started"): $UNIDESK_URL"

# 5 ------------------------------------------------------------------------------------------------------------------
mkdir -p "$data/git"
code_commit=$(make_repository "$data/git/code.git" "$repo/scripts/demo/code")
env_commit=$(make_repository "$data/git/env.git" "$repo/scripts/demo/env")
serve_repositories "$data/git" "$git_port"
code_url=http://127.0.0.1:$git_port/cgi-bin/code.git
env_url=http://127.0.0.1:$git_port/cgi-bin/env.git
# Asked for as a node asks: one commit by its id.
for pinned in "$code_url $code_commit" "$env_url $env_commit"; do
    git ls-remote "${pinned% *}" 2>/dev/null | grep "^${pinned#* }" >/dev/null ||
        die "the demo's Git server does not hand out ${pinned% *}"
done
phase 5 "repositories" "code $code_url $(short "$code_commit")   env .../env.git $(short "$env_commit")"

# 6 ------------------------------------------------------------------------------------------------------------------
phase 6 "the task" ""
cat <<COMMAND
\$ unidesk run "perl primes.pl 3000000" --timeout 5m \\
    --code-repo-url $code_url --dockerfile-path perl/Dockerfile \\
    --code-commit-id $code_commit \\
    --env-repo-url $env_url \\
    --env-commit-id $env_commit
COMMAND
code=0
# Off a terminal `run` shows nothing but the task's own output; here its phases are part of the demo.
[[ -t 2 ]] || export UNIDESK_PROGRESS=plain
unidesk run "perl primes.pl 3000000" --timeout 5m \
    --code-repo-url "$code_url" --dockerfile-path perl/Dockerfile \
    --code-commit-id "$code_commit" \
    --env-repo-url "$env_url" \
    --env-commit-id "$env_commit" </dev/null || code=$?

if ((code != 0)); then
    warn "the task ended with code $code; the platform's own log is $data/up.log"
fi
task=$(unidesk list --limit 1 -o json 2>/dev/null | grep -oE '"id": ?"[0-9a-f-]{36}"' | head -n 1 | grep -oE '[0-9a-f]{8}"' || true)
say "The same commits, image and machine can be named years later:  unidesk status ${task%\"}"
if [[ $once == true ]]; then
    say "Stopped, since --once was given; data kept in $data. Without --once the platform stays up till Ctrl-C."
    exit "$code"
fi
cat <<HINTS
Look around, in another terminal:
    export PATH="$(cd "$bin" && pwd):\$PATH" UNIDESK_URL=$UNIDESK_URL UNIDESK_TOKEN="\$(cat $data/admin.token)"
    unidesk list | unidesk node list | unidesk logs ${task%\"} | $UNIDESK_URL/api/docs      More: docs/quickstart.md
The platform stays up till Ctrl-C; its data is kept in $data, so the next run finds the image it has built.
HINTS
# Until Ctrl-C, which is how this is meant to end, or until the platform ends by itself, which is worth a word.
trap 'say; say "Stopping."; exit 0' INT TERM
wait "$platform" || true
die "the platform has ended by itself" "Its log: $data/up.log"
