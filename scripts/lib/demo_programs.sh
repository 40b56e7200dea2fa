# Programs of a demo: built, started in sessions of their own, killed as by a power cut. Sourced after machine.sh.
# shellcheck shell=bash disable=SC2154

# What the script does, between the words of the programs.
tell() { printf '%s\n' "--- $*"; }

# build_programs: into PATH. DEMO_PROFILE=dev: without optimisation.
build_programs() {
    local build=(cargo build --locked -p unidesk -p shim) bin=${CARGO_TARGET_DIR:-target}/debug
    if [[ ${DEMO_PROFILE:-release} != dev ]]; then
        build+=(--release)
        bin=${CARGO_TARGET_DIR:-target}/release
    fi
    if [[ -t 1 ]]; then "${build[@]}"; else quietly "the build" "${build[@]}"; fi
    PATH="$(cd "$bin" && pwd):$PATH"
}

# Each in a session of its own, so that Ctrl-C reaches the script first, which then stops them in order.
declare -A pid=()
launch() {
    local name=$1
    shift
    setsid "$@" >>"$scratch/$name.out" 2>>"$scratch/$name.err" </dev/null &
    pid[$name]=$!
}

# start NAME COMMAND...: and waits for its ready line.
start() {
    : >"$scratch/$1.out"
    launch "$@"
    wait_until 60 eval "grep -q '^ready ' '$scratch/$1.out' || ! kill -0 ${pid[$1]}"
    grep -q '^ready ' "$scratch/$1.out" || {
        tail -n 20 "$scratch/$1.err" | sed 's/^/  | /' >&2
        die "$1 did not start" "Its last words are above."
    }
}

# unplug NAME: as a power cut, without a word of shell about it.
unplug() {
    kill -KILL "${pid[$1]}"
    wait "${pid[$1]}" 2>/dev/null || true
}

# stop NAME...: in this order, those that were started.
stop() {
    local name
    for name in "$@"; do
        [[ -z ${pid[$name]:-} ]] || stop_process "${pid[$name]}" 15
    done
}
