#!/usr/bin/env bash
# The platform as an administrator installs it: deploy/setup.sh, then Docker Compose, in a scratch copy of this tree and under a
# project name of its own. Then everything that docs/operate.md promises of it: a task and files through the proxy, more gateways,
# down and up again with all data, one open port, figures of every service. Nothing of it is left behind.
#
#   scripts/compose-test.sh
#
# Needs Docker, and Compose v2 or 1.29. Images that no registry hands out are made from Debian's packages (deploy/test).
#
#   COMPOSE_TEST_PROFILE=dev    programs without optimisation, which is quicker when tests have built them already
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh
source scripts/lib/docker.sh
source scripts/lib/demo_git.sh

case ${1:-} in
'') ;;
-h | --help)
    sed -n '2,/^source/{/^source/d; s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
*) die "unknown: $1" "scripts/compose-test.sh takes no argument" ;;
esac

began=$(now_ms)
figures=()
# figure WHAT VALUE: for the end.
figure() { figures+=("$(printf '%-44s %s' "$1" "$2")"); }
passed=0
# ok WHAT: it was seen.
ok() {
    passed=$((passed + 1))
    printf 'ok      %s\n' "$1"
}
# fails WHY: what was to be seen was not.
fails() {
    printf 'FAILED  %s\n' "$1" >&2
    exit 1
}

# What is needed ------------------------------------------------------------------------------------------------------

need_rust
need_build
need docker.io have docker
need busybox-static have_static_busybox
need curl have curl
need binutils have strip
need bsdutils have script
have_compose() { docker compose version || docker-compose version; }
need docker-compose have_compose
install_missing
start_docker
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
say "Docker $(docker version --format '{{.Server.Version}}'), Compose $("${compose[@]}" version --short)"

# Programs ------------------------------------------------------------------------------------------------------------

started=$(now_ms)
bin=${CARGO_TARGET_DIR:-target}/debug
if [[ ${COMPOSE_TEST_PROFILE:-release} == dev ]]; then
    quietly "the build" cargo build --locked -p unidesk -p shim
    scripts/build-shim.sh
else
    bin=${CARGO_TARGET_DIR:-target}/release
    quietly "the build" cargo build --locked --release -p unidesk -p shim
    scripts/build-shim.sh --release
fi
PATH="$(cd "$bin" && pwd):$PATH"
say "programs built in $(took "$started")"

# A copy of the tree, as a clone has it, with these programs in it.
tree=$scratch/tree
mkdir "$tree"
git ls-files --cached --others --exclude-standard -z | xargs -0 ls -d 2>/dev/null | tar -c -T - | tar -x -C "$tree"
mkdir -p "$tree/deploy/prebuilt"
for program in unidesk unidesk-shim unidesk-shim-static; do strip --strip-debug -o "$tree/deploy/prebuilt/$program" "$bin/$program"; done

# Images --------------------------------------------------------------------------------------------------------------

started=$(now_ms)
ensure_base_image >"$scratch/base.out"
own=()
take_names_back() { ((${#own[@]} == 0)) || docker image rm "${own[@]}" >/dev/null 2>&1; }
at_exit take_names_back
# foreign IMAGE NAME: from its registry, else our own one under its name. That name is taken back at the end: whoever installs the
# platform on this machine one day is to get the real one.
foreign() {
    local image=$1 name=$2 context=$scratch/images/$2
    if has_image "$image" || pull_if_answered "$image"; then return 0; fi
    mkdir -p "$context"
    cp deploy/test/* "$context"
    [[ $name != seaweedfs ]] || cp "$(scripts/test-seaweedfs.sh)" "$context/weed"
    quietly "making $image" docker build -t "unidesk-test/$name" -f "$context/$name.Dockerfile" "$context"
    docker tag "unidesk-test/$name" "$image"
    own+=("$image")
}
# image_of NAME: as docker-compose.yml names it.
image_of() { sed -n "s|^    image: \($1:.*\)|\1|p" docker-compose.yml; }
foreign "$(image_of postgres)" postgres
foreign "$(image_of chrislusf/seaweedfs)" seaweedfs
foreign "$(image_of prom/prometheus)" prometheus
foreign "$(image_of caddy)" caddy
if ((${#own[@]})); then say "no registry answers for ${own[*]}: made from Debian's packages, $(took "$started")"; fi

# Set up --------------------------------------------------------------------------------------------------------------

cd "$tree"
port=7880
until port_is_free "$port" && port_is_free $((port + 43)); do port=$((port + 1)); done
project=unidesk-test-$$
deploy/setup.sh --port "$port" >"$scratch/setup.out"
grep -q '^warning: without a domain' "$scratch/setup.out" || fails "setup.sh does not warn of plain HTTP"
# As an administrator edits it.
edit() { sed -i "s|^$1=.*|$1=$2|" .env; }
edit COMPOSE_PROJECT_NAME "$project"
edit UNIDESK_SERVER_IMAGE unidesk-test/server
edit UNIDESK_PROVIDER_IMAGE unidesk-test/provider
edit UNIDESK_BACKUP_IMAGE unidesk-test/backup
printf '%s\n' UNIDESK_BINARIES=prebuilt UNIDESK_BUILDER=debian:bookworm-slim >>.env
of_setup() { sha256sum .env deploy/secrets/* && stat -c '%n %a %Y' .env deploy/secrets deploy/secrets/*; }
before=$(of_setup)
deploy/setup.sh --port 1234 >/dev/null
[[ $(of_setup) == "$before" ]] || fails "setup.sh has changed what was there"
[[ $(stat -c %a deploy/secrets) == 700 ]] || fails "deploy/secrets is open to others"
ok "setup.sh makes settings and secrets, and again it changes nothing"

# The agent's own leftovers: what it builds and mounts is Docker's, and carries its installation's id.
clean_up() {
    local instance kind
    if ((failed)); then
        for container in $(compose_do ps -q 2>/dev/null); do
            [[ $(docker inspect "$container" --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.ExitCode}}{{end}}') =~ ^(healthy|0)$ ]] &&
                [[ -z ${show_all:-} ]] && continue
            docker inspect "$container" --format '--- {{.Name}}: {{.State.Status}}{{if .State.Health}}, {{.State.Health.Status}}{{end}}' >&2
            docker logs --tail 30 "$container" 2>&1 | sed 's/^/  | /' >&2
        done
    fi
    docker rm -f "$project-second" >/dev/null 2>&1
    docker volume rm "$project-second" "${project}-second_state" >/dev/null 2>&1
    instance=$(docker run --rm -v "${project}_node:/node:ro" --entrypoint cat "unidesk-test/server:$version" /node/instance 2>/dev/null)
    compose_do --profile grafana --profile cli down -v --remove-orphans --timeout 20 >/dev/null 2>&1
    if [[ -n $instance ]]; then
        docker ps -aq --filter "label=unidesk.instance=$instance" | xargs -r docker rm -f
        for kind in instance input; do docker volume ls -q --filter "label=unidesk.$kind=$instance" | xargs -r docker volume rm; done
        docker image ls -q --filter "label=unidesk.instance=$instance" | sort -u | xargs -r docker image rm -f
    fi >/dev/null 2>&1
    docker image rm "unidesk-test/server:$version" "unidesk-test/provider:$version" "unidesk-test/backup:$version" >/dev/null 2>&1
    docker image prune -f --filter label=unidesk.stage=binaries >/dev/null 2>&1
}
# Output of Compose is of interest when something goes wrong.
compose_do() { (cd "$tree" && "${compose[@]}" "$@"); }
version=$(sed -n 's/^UNIDESK_VERSION=//p' .env)
failed=1
at_exit clean_up

started=$(now_ms)
# All services share the one image; the node and the backup have others.
quietly "building the images" compose_do build api-gateway node backup
say "images built in $(took "$started")"
said=$(docker run --rm "unidesk-test/server:$version" --version)
[[ $said == "unidesk $version ("*", protocol "*", agents from "*")" ]] || fails "the image says it is: $said"
for image in server provider backup; do
    [[ $(docker image inspect "unidesk-test/$image:$version" --format '{{index .Config.Labels "org.opencontainers.image.version"}}') == "$version" ]] ||
        fails "the image $image has no label with its version"
done
ok "images of $said"

# Up ------------------------------------------------------------------------------------------------------------------

health_of() { docker inspect "$1" --format '{{.State.Status}} {{.State.ExitCode}} {{if .State.Health}}{{.State.Health.Status}}{{end}}'; }
# Every container runs and is healthy, or was there for one thing and has done it.
all_well() {
    local container
    for container in $(compose_do ps -q); do
        case $(health_of "$container") in
        "running "*" healthy" | "exited 0 "*) ;;
        *) return 1 ;;
        esac
    done
}
# up WHAT [ARGUMENTS]: and waits until all is well.
up() {
    local what=$1 since
    shift
    since=$(now_ms)
    quietly "$what" compose_do up -d "$@"
    wait_until 120 all_well || fails "$what: after two minutes something is not healthy"
    figure "$what" "$(took "$since") until all is healthy and the node is connected"
}
up "first up -d, empty volumes"
ok "all services are healthy, and the server's own node is connected"

UNIDESK_URL=http://127.0.0.1:$port
UNIDESK_TOKEN=$(compose_do run --rm -T --entrypoint cat cli /var/lib/unidesk/admin.token 2>/dev/null | tr -d '\r')
export UNIDESK_URL UNIDESK_TOKEN UNIDESK_PROGRESS=plain XDG_STATE_HOME=$scratch/state XDG_CONFIG_HOME=$scratch/config
unidesk whoami >"$scratch/whoami" 2>&1 || fails "the administrator's key is not taken: $(cat "$scratch/whoami")"
compose_do run --rm -T cli node list 2>/dev/null | grep '^server.*connected' >/dev/null || fails "the command line in a container does not show the node"
ok "the administrator's key works through the proxy, here and in the container \`cli\`"

# Only the proxy has ports on the machine.
# shellcheck disable=SC2016 # the template's variables
open=$(compose_do ps -q | xargs docker inspect --format '{{.Name}} {{range $port, $at := .HostConfig.PortBindings}}{{$port}} {{end}}' | awk 'NF > 1')
[[ $open == "/${project}"?"proxy"?"1 "* && $(wc -l <<<"$open") == 1 ]] || fails "ports of the machine are taken by: $open"
for path in /metrics /metrics/ /%6detrics; do
    [[ $(curl -s -o /dev/null -w '%{http_code}' --path-as-is "$UNIDESK_URL$path") != 200 ]] || fails "$path is open to everybody"
done
for path in /unidesk-objects/ "/unidesk-objects/?list-type=2" /unidesk-objects/..; do
    curl -s --path-as-is "$UNIDESK_URL$path" | grep '<ListBucketResult\|<ListAllMyBuckets' >/dev/null && fails "$path lists objects for everybody"
done
ok "only the proxy's port is open, without figures and without a list of objects"

compose_do ps -q | xargs docker inspect >"$scratch/inspected"
for secret in postgres-password object-store-key; do
    ! grep -qF "$(cat "deploy/secrets/$secret")" "$scratch/inspected" || fails "docker inspect shows $secret"
done
for limit in Memory NanoCpus; do
    ! compose_do ps -q | xargs docker inspect --format "{{.Name}} {{.HostConfig.$limit}}" | grep ' 0$' || fails "containers without a limit of $limit"
done
ok "docker inspect shows no secret; every container has limits"

# A task and files ----------------------------------------------------------------------------------------------------

mkdir "$scratch/git"
code_commit=$(make_repository "$scratch/git/code.git" "$repo/scripts/demo/code")
env_commit=$(make_repository "$scratch/git/env.git" "$repo/scripts/demo/env")
git_port=$((port + 500))
until port_is_free "$git_port"; do git_port=$((git_port + 1)); done
serve_repositories "$scratch/git" "$git_port"
# task SHOWN: runs one on the server's node to its end; its log is in SHOWN.
task() {
    timeout 180 unidesk run "perl primes.pl 300000" --timeout 2m --queue-timeout 60s --dockerfile-path perl/Dockerfile \
        --code-repo-url "http://127.0.0.1:$git_port/cgi-bin/code.git" --code-commit-id "$code_commit" \
        --env-repo-url "http://127.0.0.1:$git_port/cgi-bin/env.git" --env-commit-id "$env_commit" \
        >"$1" 2>"$1.err" </dev/null || fails "the task: $(cat "$1.err" "$1")"
}
task "$scratch/first.log"
grep -q '^25997 primes' "$scratch/first.log" || fails "the task's log is: $(cat "$scratch/first.log")"
id=$(grep -oE 'task [0-9a-f]+' "$scratch/first.log.err" | head -n 1 | cut -d ' ' -f 2)
ok "a task of two commits, built and run on the server's own node: $id"

head -c $((24 << 20)) /dev/urandom >"$scratch/data"
unidesk artifact put "$scratch/data" --name data >"$scratch/put" 2>&1 || fails "artifact put: $(cat "$scratch/put")"
same_data() {
    rm -f "$scratch/back"
    unidesk artifact get data --to "$scratch/back" >"$scratch/get" 2>&1 && cmp "$scratch/data" "$scratch/back"
}
same_data || fails "artifact get: $(cat "$scratch/get")"
ok "24 MiB in and out through the proxy"

# A machine joins -----------------------------------------------------------------------------------------------------

# As on a terminal: the lines to paste are for people.
script -qec "unidesk node-token create --name second --no-wait" /dev/null </dev/null >"$scratch/token" 2>&1 || fails "node-token create: $(cat "$scratch/token")"
tr -d '\r' <"$scratch/token" | sed -n '/^  (umask/p; /^  docker run/,/[^\\]$/p' |
    sed "s|ghcr.io/unidesk/|unidesk-test/|; s|--name unidesk-node|--name $project-second|; s|-v unidesk-node:|-v $project-second:|" >"$scratch/paste"
second=$project-second
# joins WHAT: until the machine is there.
joins() {
    wait_until 60 eval "unidesk node list | grep -P '^second\tconnected'" || fails "$1: it does not connect: $(docker logs "$second" 2>&1 | tail -n 5)"
    wait_until 30 eval "[[ \$(health_of $second) == *' healthy' ]]" || fails "$1: it is not healthy"
}
# paste WHAT FILE: as on that machine.
paste() {
    mkdir -p "$scratch/second"
    (cd "$scratch/second" && quietly "$1" sh -e "$2") || fails "$1 does not run: $(cat "$2")"
    joins "$1"
}
warns() { docker logs "$second" 2>&1 | grep 'goes with it' >/dev/null; }
sed "s|-v $second:[^ ]* ||" "$scratch/paste" >"$scratch/paste-careless"
paste "the line without its volume" "$scratch/paste-careless"
warns || fails "the agent does not say that it has no volume"
docker rm -f "$second" >/dev/null
paste "the line that node-token create prints" "$scratch/paste"
! warns || fails "the agent takes a volume for none"
! docker inspect "$second" | grep -F "$(grep -oE 'ud_node_[A-Za-z0-9_]+' "$scratch/token" | head -n 1)" >/dev/null || fails "docker inspect shows the node's token"
docker rm -f "$second" >/dev/null
ok "another node joins with the lines that node-token create prints; without its volume it warns"

# Its compose file, but that the server is on this machine's loopback here.
of_provider() { (cd "$tree/deploy/provider" && "${compose[@]}" -p "$second" -f docker-compose.yml -f loopback.yml "$@"); }
cp "$scratch/second/node.token" deploy/provider/node.token
printf 'services: {node: {network_mode: host, container_name: %s}}\n' "$second" >deploy/provider/loopback.yml
sed "s|^UNIDESK_URL=.*|UNIDESK_URL=$UNIDESK_URL|; s|ghcr.io/unidesk/|unidesk-test/|" deploy/provider/.env.example >deploy/provider/.env
quietly "the provider's compose file" of_provider up -d
joins "the provider's compose file"
! warns || fails "the compose file has no volume for the agent"
of_provider down -v >/dev/null 2>&1
unidesk node revoke second --yes >"$scratch/revoked" 2>&1 || fails "the node can't be revoked: $(cat "$scratch/revoked")"
ok "another node joins by deploy/provider/docker-compose.yml"

# More gateways -------------------------------------------------------------------------------------------------------

up "up -d --scale api-gateway=3" --scale api-gateway=3
task "$scratch/second.log"
same_data || fails "artifact get with three gateways: $(cat "$scratch/get")"
# targets_up N: Prometheus asks so many of our processes, and all of them answer.
targets() { compose_do exec -T prometheus wget -q -O - 'http://127.0.0.1:9090/api/v1/query?query=up' | tr '}' '\n' | grep -c '"service":"'; }
well() { compose_do exec -T prometheus wget -q -O - 'http://127.0.0.1:9090/api/v1/query?query=up==1' | tr '}' '\n' | grep -c '"service":"'; }
targets_up() { [[ $(targets) == "$1" && $(well) == "$1" ]]; }
wait_until 90 targets_up 8 || fails "Prometheus has $(targets) targets, $(well) of them up, and there are 8 processes"
compose_do exec -T prometheus wget -q -O - 'http://127.0.0.1:9090/api/v1/rules?type=alert' | grep -q UnideskNodeOffline ||
    fails "Prometheus has not read the alerts"
ok "three gateways behind one address; Prometheus sees all 8 processes, and has the alerts"

# Backups -------------------------------------------------------------------------------------------------------------

backups() { compose_do exec -T backup unidesk backup list; }
# The first two are made at the start.
both_verified() { [[ $(backups 2>/dev/null | grep -c 'audit clean') -ge 2 ]]; }
wait_until 120 both_verified || fails "the first backups: $(backups 2>&1)"
dump=$(compose_do exec -T backup unidesk backup now 2>"$scratch/backup" | tail -n 1)
compose_do exec -T backup unidesk backup verify "$dump" >>"$scratch/backup" 2>&1 || fails "the dump $dump: $(cat "$scratch/backup")"
ok "a dump and a base backup are there from the start, each restored and audited; one more by hand"

# Down and up ---------------------------------------------------------------------------------------------------------

while read -r name memory; do figure "memory, $name" "$memory"; done < <(
    compose_do ps -q | xargs docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' | sed "s/^$project.//; s, /.*,," | sort
)
quietly "down" compose_do down --timeout 30
up "down, then up -d with all data"
unidesk logs "$id" >"$scratch/again.log" 2>&1
cmp -s "$scratch/first.log" "$scratch/again.log" || fails "the log after down and up is: $(cat "$scratch/again.log")"
unidesk status "$id" 2>&1 | grep -i succeeded >/dev/null || fails "the task after down and up is: $(unidesk status "$id" 2>&1)"
same_data || fails "artifact get after down and up: $(cat "$scratch/get")"
task "$scratch/third.log"
grep -qE ' are there|env@[0-9a-f]* was here' "$scratch/third.log.err" || fails "the node has lost its caches: $(cat "$scratch/third.log.err")"
[[ $(unidesk node list 2>/dev/null | grep -c '^server') == 1 ]] || fails "the node is not the one of before: $(unidesk node list)"
unidesk audit >"$scratch/audit" 2>&1 || fails "the audit: $(cat "$scratch/audit")"
ok "down and up: task, log, artifact, node and its caches are what they were"

# The database is lost, and comes back from its newest dump, as docs/operate.md has it.
compose_do exec -T backup unidesk backup now >"$scratch/backup" 2>&1 || fails "backup now: $(cat "$scratch/backup")"
quietly "the services stop" compose_do stop --timeout 30
quietly "PostgreSQL starts" compose_do up -d postgres
# shellcheck disable=SC2016  # Read by the shell in the container.
lost() { compose_do exec -T postgres sh -c 'export PGPASSWORD=$(cat /run/secrets/postgres-password); dropdb -h 127.0.0.1 -U unidesk unidesk && createdb -h 127.0.0.1 -U unidesk unidesk'; }
wait_until 30 lost || fails "the database can't be replaced by an empty one: $(lost 2>&1)"
# shellcheck disable=SC2016
quietly "the restore" compose_do run --rm -T --no-deps --entrypoint sh backup -c \
    'unidesk backup restore latest --into-database-url "postgres://unidesk:$(cat /run/secrets/postgres-password)@postgres/unidesk"'
up "up -d after a restore"
unidesk logs "$id" >"$scratch/again.log" 2>&1
cmp -s "$scratch/first.log" "$scratch/again.log" || fails "the log after the restore is: $(cat "$scratch/again.log")"
same_data || fails "artifact get after the restore: $(cat "$scratch/get")"
task "$scratch/fourth.log"
unidesk audit >"$scratch/audit" 2>&1 || fails "the audit after the restore: $(cat "$scratch/audit")"
ok "the database was lost and came back from a dump: task, log and artifact are there, and the next task runs"

for container in $(compose_do ps -q); do docker logs "$container" 2>&1; done >"$scratch/all.log"
! grep -qE 'X-Amz-Signature=[0-9a-f]|ud_(key|node)_' "$scratch/all.log" || fails "a log has a signed address or a token"
ok "no log has a signed address or a token"

# The figures ---------------------------------------------------------------------------------------------------------

size() { docker image inspect "$1" --format '{{.Size}}'; }
base=$(size "$base_image")
for image in server provider backup; do
    figure "image $image, above $base_image" "$((($(size "unidesk-test/$image:$version") - base) / 1048576)) MiB"
done
failed=0
say
say "measured (${COMPOSE_TEST_PROFILE:-release} build, $(describe_machine)):"
printf '  %s\n' "${figures[@]}"
say "all of it: $(took "$began")"
say "compose: $passed passed, 0 failed"
