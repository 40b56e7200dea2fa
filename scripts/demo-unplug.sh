#!/usr/bin/env bash
# A task counts to sixty, a number a second, while everything around it is killed: its gateway, the agent of its node, and
# PostgreSQL. Once in a container, once as a plain process; every part is a process of its own, as on real machines.
#
#   scripts/demo-unplug.sh             two tasks, about a minute each
#   scripts/demo-unplug.sh --fast      ten numbers a second
#   scripts/demo-unplug.sh container   this one only; or: process
#
# Ends with code 0 only if both logs have sixty lines, in order, none twice, and each task has one result of one attempt.
# Needs what scripts/demo.sh needs. Everything is kept in a directory that goes away at the end.
#
#   DEMO_PROFILE=dev    build without optimisation, which is quicker when tests have built that already
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh
source scripts/lib/docker.sh
source scripts/lib/demo_git.sh
source scripts/lib/demo_programs.sh

pause_ms=1000 away_ms=3000 kinds=()
for argument in "$@"; do
    case $argument in
    --fast) pause_ms=100 away_ms=600 ;;
    container | process) kinds+=("$argument") ;;
    -h | --help)
        sed -n '2,/^source/{s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) die "unknown: $argument" "scripts/demo-unplug.sh [--fast] [container] [process]" ;;
    esac
done
((${#kinds[@]})) || kinds=(container process)

seconds() { printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); }

# Processes ----------------------------------------------------------------------------------------------------------

stop_all() {
    stop agent gateway scheduler registry
    [[ -z ${pid[postgres]:-} ]] || stop_process "${pid[postgres]}" 15 INT
}

# PostgreSQL does not run as root.
as_database_user=(env LC_ALL=C.UTF-8)
if ((EUID == 0)); then as_database_user=(setpriv --reuid postgres --regid postgres --clear-groups "${as_database_user[@]}"); fi
start_gateway() { start gateway unidesk server api-gateway --database-url "$database" --listen "127.0.0.1:$port"; }
start_agent() {
    start agent unidesk provider --server "$UNIDESK_URL" --token-file "$scratch/node.token" --data-dir "$scratch/node"
}
start_postgres() {
    # What a killed server has left must be gone before the next one takes its files.
    local try
    for try in 1 2 3 4 5; do
        launch postgres "${as_database_user[@]}" "$pg/postgres" -D "$scratch/pg/data" -k "$scratch/pg" -c listen_addresses=
        if wait_until 20 eval "$pg/psql -X -q -h '$scratch/pg' -U unidesk -d postgres -c 'SELECT 1' || ! kill -0 ${pid[postgres]}" &&
            kill -0 "${pid[postgres]}" 2>/dev/null; then return 0; fi
        sleep "0.$try"
    done
    tail -n 20 "$scratch/postgres.err" | sed 's/^/  | /' >&2
    die "PostgreSQL did not start" "Its last words are above."
}

# The platform -------------------------------------------------------------------------------------------------------

say "UniDesk, unplugged: a task counts to sixty while everything around it is killed."
need_rust
need_build
need_platform
install_missing
start_docker
pg=$(postgres_bin)
started=$(now_ms)
build_programs
ensure_test_image
tell "built in $(took "$started"); now every part starts as a process of its own"

# PostgreSQL and the tasks have users of their own, who must be able to pass through.
chmod 0711 "$scratch"
mkdir -p "$scratch/pg/data" "$scratch/node"
if ((EUID == 0)); then chown -R postgres "$scratch/pg"; fi
quietly "initdb" "${as_database_user[@]}" "$pg/initdb" -U unidesk -A trust -E UTF8 --locale=C.UTF-8 -D "$scratch/pg/data"
database="postgres://unidesk@localhost/postgres?host=${scratch//\//%2F}%2Fpg"
port=7840
until port_is_free "$port" && port_is_free $((port + 1)); do port=$((port + 2)); done
export UNIDESK_URL=http://127.0.0.1:$port
at_exit stop_all
start_postgres
quietly "unidesk migrate" unidesk migrate --database-url "$database" --admin-token-file "$scratch/admin.token"
UNIDESK_TOKEN=$(cat "$scratch/admin.token")
export UNIDESK_TOKEN
start_gateway
start scheduler unidesk server scheduler --database-url "$database"
start registry unidesk server node-registry --database-url "$database"
unidesk node-token create --name laptop >"$scratch/node.token" 2>"$scratch/node-token.err" ||
    die "no token for the node: $(cat "$scratch/node-token.err")"
# So that nobody waits long for an agent's next try.
say "reconnect_cap_ms = $away_ms" >"$scratch/node/provider.toml"
# Where this runs in a container, the agent leaves processes alone unless its owner allows them.
say "executors = ['container', 'process']" >"$scratch/node/policy.toml"
start_agent
instance=$(cat "$scratch/node/instance")
at_exit "docker images -q --filter 'label=unidesk.instance=$instance' | sort -u | xargs -r docker rmi -f >/dev/null"
at_exit "docker ps -aq --filter 'label=unidesk.instance=$instance' | xargs -r docker rm -f -v >/dev/null"
tell "PostgreSQL ${pid[postgres]}, gateway ${pid[gateway]}, scheduler ${pid[scheduler]}, registry ${pid[registry]}, agent of node \"laptop\" ${pid[agent]}"

mkdir -p "$scratch/git" "$scratch/env" "$scratch/code"
say "FROM $test_image" >"$scratch/env/Dockerfile"
say "i=0; while [ \$i -lt 60 ]; do i=\$((i+1)); echo \"\$i of 60\"; sleep \$1; done" >"$scratch/code/count.sh"
code_commit=$(make_repository "$scratch/git/code.git" "$scratch/code")
environment=$(make_repository "$scratch/git/env.git" "$scratch/env")
serve_repositories "$scratch/git" $((port + 1))
git=http://127.0.0.1:$((port + 1))/cgi-bin

# The tasks ----------------------------------------------------------------------------------------------------------

# at SHARE: waits until so many sixtieths of the count have passed.
at() {
    local left=$((counting_since + $1 * pause_ms - $(now_ms)))
    ((left <= 0)) || sleep "$(seconds "$left")"
}
while_away() { sleep "$(seconds "$away_ms")"; }

# count KIND: runs the task, unplugs, and judges. False when anything is missing or twice.
count() {
    local kind=$1 code=0 line task options=() out=$scratch/$1.log viewer run
    line="sh count.sh $(seconds "$pause_ms")"
    options=(--code-repo-url "$git/code.git" --code-commit-id "$code_commit")
    case $kind in
    container)
        options+=(--env-repo-url "$git/env.git" --env-commit-id "$environment" --dockerfile-path Dockerfile)
        ;;
    process) options+=(--executor process) ;;
    esac
    say
    tell "a task that counts to sixty, as a $kind:  unidesk run '$line'"
    : >"$out"
    UNIDESK_PROGRESS=plain unidesk run "$line" --timeout 10m "${options[@]}" >"$out" 2>"$scratch/$kind.err" </dev/null &
    run=$!
    # Its log as it comes, as whoever follows it sees it.
    (tail -n +1 -f "$out" "$scratch/$kind.err" 2>/dev/null --pid "$run" -q | sed -u "s/^/    $kind | /") &
    viewer=$!
    wait_until 120 eval "grep -q '^1 of 60' '$out' || ! kill -0 $run"
    grep -q '^1 of 60' "$out" || die "the task did not begin to count"
    counting_since=$(now_ms)

    at 10
    tell "kill -9 ${pid[gateway]}: the gateway is dead. Nobody can see the log now; the task neither knows nor cares."
    unplug gateway
    while_away
    start_gateway
    tell "a new gateway, ${pid[gateway]}. The agent finds it and sends what it has kept; the log goes on."

    at 25
    tell "kill -9 ${pid[agent]}: the agent is dead. $(still_counting "$kind")"
    unplug agent
    while_away
    start_agent
    tell "a new agent, ${pid[agent]}: it has found the task, and the lines that nobody took meanwhile."

    at 40
    tell "kill -9 of PostgreSQL, ${pid[postgres]}: whatever it had promised to keep must be on its disk."
    unplug postgres
    while_away
    start_postgres
    tell "PostgreSQL is back, ${pid[postgres]}, and has read its log."

    wait "$run" || code=$?
    wait "$viewer" 2>/dev/null || true
    task=$(unidesk list --limit 1 -o json | grep -oE '"id": ?"[0-9a-f-]{36}"' | head -n 1 | grep -oE '[0-9a-f-]{36}')
    judge "$kind" "$task" "$code" "$out"
}

# Where the task lives while its agent is dead.
still_counting() {
    if [[ $1 == container ]]; then
        local id
        id=$(docker ps -q --filter "label=unidesk.instance=$instance" | head -n 1)
        printf 'Container %s goes on counting; Docker keeps what it says.' "$id"
    else
        local supervisor
        # What its supervisor says of itself begins behind the agent's own page.
        supervisor=$(tail -q -c +4097 "$scratch"/node/attempts/*/process 2>/dev/null | sed -n 's/^pid=//p' | head -n 1)
        printf 'The process goes on counting; its supervisor, %s, keeps what it says.' "$supervisor"
    fi
}

# judge KIND TASK CODE FOLLOWED: what was followed, what is stored, and what the task's record says.
judge() {
    local kind=$1 task=$2 code=$3 followed=$4 record attempts results lines wanted good=true
    seq -f '%.0f of 60' 60 >"$scratch/wanted"
    unidesk logs "$task" >"$scratch/stored"
    record=$(unidesk status "$task" -o json)
    attempts=$("$pg/psql" -X -A -t -h "$scratch/pg" -U unidesk -d postgres -c "SELECT count(*) FROM attempts WHERE task_id = '$task'")
    results=$("$pg/psql" -X -A -t -h "$scratch/pg" -U unidesk -d postgres -c \
        "SELECT count(*) FROM task_events, json_array_elements(events) AS e WHERE task_id = '$task' AND e->>'event' = 'finished'")
    say
    for wanted in "followed $followed" "stored $scratch/stored"; do
        lines=$(wc -l <"${wanted#* }")
        if cmp -s "${wanted#* }" "$scratch/wanted"; then
            tell "${wanted%% *}: all lines, in order, none twice"
        else
            tell "${wanted%% *}: $lines lines, and not the right ones"
            diff "$scratch/wanted" "${wanted#* }" | sed 's/^/    /' | head -n 20
            good=false
        fi
    done
    if ((code != 0)) || ! grep -qE '"state": ?"succeeded"' <<<"$record"; then
        tell "it did not succeed: unidesk run ended with $code"
        good=false
    fi
    ((attempts == 1 && results == 1)) || good=false
    tell "$kind: $(wc -l <"$scratch/stored") of 60 lines, $([[ $results == 1 ]] && printf 'one result' || printf '%s results' "$results"), attempt $attempts"
    [[ $good == true ]]
}

failed=()
for kind in "${kinds[@]}"; do count "$kind" || failed+=("$kind"); done
say
((${#failed[@]} == 0)) || die "not everything survived: ${failed[*]}"
say "60 of 60 lines, one result, attempt 1: ${kinds[*]}."
