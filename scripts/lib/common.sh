# What every script here shares: where the repository is, words for people, phases with their times, an orderly end.
# Sourced, never run. Bash 5 (Debian 11 and later, Ubuntu 20.04 and later).
# shellcheck shell=bash

set -Eeuo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repo"
# Here, not in the environment of each command: paths like /usr/sbin are absent from a plain user's PATH on Debian.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# Scratch of this run: logs of quiet commands, sockets. Short, since a Unix socket's path may have 107 bytes only.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/unidesk.XXXXXX")

exit_steps=("rm -rf '$scratch'")
# at_exit COMMAND: runs it when the script ends, however it ends; the last registered first.
at_exit() { exit_steps+=("$1"); }
run_exit_steps() {
    local code=$? index
    trap '' INT TERM
    set +e
    for ((index = ${#exit_steps[@]} - 1; index >= 0; index--)); do eval "${exit_steps[index]}"; done
    exit "$code"
}
trap run_exit_steps EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
# die WHAT [WHAT TO DO ...]: the reason on the first line, each next step on its own.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

# now_ms, took MS_BEFORE: the time since, as people read it (0.4 s, 58 s, 2m 51s).
now_ms() { printf '%s' $((${EPOCHREALTIME/[.,]/} / 1000)); }
took() {
    local ms=$(($(now_ms) - $1))
    if ((ms < 10000)); then
        printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
    elif ((ms < 60000)); then
        printf '%d s' $((ms / 1000))
    else
        printf '%dm %02ds' $((ms / 60000)) $((ms / 1000 % 60))
    fi
}

# quietly WHAT COMMAND...: runs it without a word; when it fails, says what it was and shows the end of its output.
quietly() {
    local what=$1 log
    shift
    log=$(mktemp "$scratch/log.XXXXXX")
    if "$@" >"$log" 2>&1 </dev/null; then return 0; fi
    printf 'error: %s failed: %s\n' "$what" "$*" >&2
    tail -n 40 "$log" | sed 's/^/  | /' >&2
    return 1
}

# wait_until SECONDS COMMAND...: polls until it succeeds; false when the time is over.
wait_until() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@" >/dev/null 2>&1; do
        (($(now_ms) < deadline)) || return 1
        sleep 0.1
    done
}

# stop_process PID SECONDS [SIGNAL]: asks, waits, and ends what does not listen. Only ever for processes of this run.
stop_process() {
    local pid=$1 seconds=$2 signal=${3:-TERM}
    kill -0 "$pid" 2>/dev/null || return 0
    kill "-$signal" "$pid" 2>/dev/null
    wait_until "$seconds" eval "! kill -0 $pid" || kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    return 0
}

# port_is_free PORT: whether nobody listens on it on the loopback address.
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
