#!/usr/bin/env bash
# The private PostgreSQL server that tests share: starts it when it does not run, and prints its URL.
#
#   scripts/test-database.sh          the URL of a running server
#   scripts/test-database.sh stop     ends it at once and removes its data
#
# Tests call this by themselves (test-kit does), so `cargo nextest run -p store` needs no preparation. The server ends by
# itself after ten minutes in which nobody asked for it and nobody is connected.
#
# It listens on a Unix socket only, in a directory that only the server's own user and root may enter. That directory is
# the lock on the door, which is why its `trust` lets nobody in who could not read the data anyway. `peer` would not do:
# PostgreSQL refuses to run as root, so for root the server's user is never one's own.
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh

idle_seconds=${UNIDESK_TEST_DATABASE_IDLE:-600}
# One server for each checkout and user; named by the checkout's path, and short, as socket paths must be.
name=$(printf '%s' "$repo" | cksum | cut -d ' ' -f 1)
dir=/tmp/unidesk-test-pg-$EUID-$name
url="postgres://unidesk@localhost/postgres?host=$dir/socket"

bin=$(postgres_bin) || die "PostgreSQL is missing" \
    "scripts/test.sh installs it, or: apt-get install -y --no-install-recommends postgresql"

# An environment and a directory of its own: the caller's may be unreadable for that user.
server_user=(env -i "PATH=$PATH" LANG=C.UTF-8)
if ((EUID == 0)); then server_user=(setpriv --reuid postgres --regid postgres --clear-groups "${server_user[@]}"); fi
as_server() { (cd / && exec "${server_user[@]}" "$@"); }
query() { "$bin/psql" -XAtq -h "$dir/socket" -U unidesk -d postgres -c "$1"; }
is_up() { [[ -S $dir/socket/.s.PGSQL.5432 ]] && query 'SELECT 1'; }
# A process id may be another's by now; the server's is the one that still has this data directory.
server_pid() {
    local pid
    pid=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) &&
        [[ $(readlink "/proc/$pid/cwd" 2>/dev/null) == "$dir/data" ]] && printf '%s' "$pid"
}

stop_server() {
    local pid
    if pid=$(server_pid); then
        kill -INT "$pid" 2>/dev/null || true
        wait_until 10 eval "! kill -0 $pid" || kill -KILL "$pid" || true
    fi
    rm -rf "$dir"
}

start_server() {
    stop_server
    # Made by us and by nobody before us: mkdir fails on a directory that somebody else has planted here.
    mkdir -m 0700 "$dir"
    mkdir -m 0700 "$dir/socket" "$dir/data"
    if ((EUID == 0)); then chown -R postgres: "$dir"; fi
    quietly "initdb" as_server "$bin/initdb" --auth=trust --username=unidesk --encoding=UTF8 --locale=C.UTF-8 \
        --no-sync --pgdata="$dir/data"
    # Its data need not survive a crash of this machine, which makes commits several times faster.
    {
        say "listen_addresses = ''"
        say "unix_socket_directories = '$dir/socket'"
        say 'fsync = off'
        say 'full_page_writes = off'
        say 'max_connections = 400'
        say 'max_wal_size = 4GB'
        say 'autovacuum_naptime = 10min'
        # Tests of what a statement costs count the buffers that it reads.
        say "shared_preload_libraries = 'pg_stat_statements'"
        say "timezone = 'UTC'"
    } >>"$dir/data/postgresql.conf"
    # Away from the caller in every way: its session, its terminal, its pipes (a test runner waits for those to close),
    # and the lock that is held here.
    (cd / && exec setsid "${server_user[@]}" "$bin/postgres" -D "$dir/data") >"$dir/log" 2>&1 </dev/null 8>&- &
    wait_until 30 is_up || {
        tail -n 20 "$dir/log" | sed 's/^/  | /' >&2
        die "the test database did not come up" "Its last words are above."
    }
    setsid "$repo/scripts/test-database.sh" watch >/dev/null 2>&1 </dev/null 8>&- &
}

# Ends the server when it is idle. Checked under the lock, so that nobody is handed a URL of a server that is just ending.
watch_server() {
    local age connected pid
    pid=$(server_pid)
    while sleep 15 && [[ $(server_pid) == "$pid" ]]; do
        age=$(($(date +%s) - $(stat -c %Y "$dir/used")))
        ((age < idle_seconds)) && continue
        exec 8>"$dir.lock"
        flock 8
        connected=$(query "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'" || say 0)
        if ((connected == 0 && $(date +%s) - $(stat -c %Y "$dir/used") >= idle_seconds)); then
            stop_server
            return
        fi
        exec 8>&-
    done
}

case ${1:-url} in
url)
    exec 8>"$dir.lock"
    flock 8
    is_up >/dev/null 2>&1 || start_server
    touch "$dir/used"
    say "$url"
    ;;
stop)
    exec 8>"$dir.lock"
    flock 8
    stop_server
    ;;
watch) watch_server ;;
*) die "unknown: $1" "scripts/test-database.sh [stop]" ;;
esac
