#!/usr/bin/env bash
# A data set goes in, a task on another node reads it and leaves a model, the model comes out, and every byte is what it was. The
# platform, with the object store in it, is killed twice meanwhile: while the data set is put in, and while the model is stored.
#
#   scripts/demo-artifacts.sh              a data set of 200 MiB
#   scripts/demo-artifacts.sh --mib 2000   a larger one
#
# Ends with code 0 only if all checksums are equal and the second task found the data set on its node. Everything is kept in a
# directory that goes away at the end.
#
#   DEMO_PROFILE=dev    build without optimisation, which is quicker when tests have built that already
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh
source scripts/lib/demo_programs.sh

mib=200
while (($#)); do
    case $1 in
    --mib)
        mib=${2:-}
        [[ $mib =~ ^[1-9][0-9]*$ ]] || die "--mib takes a number of MiB"
        shift
        ;;
    -h | --help)
        sed -n '2,/^source/{s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) die "unknown: $1" "scripts/demo-artifacts.sh [--mib N]" ;;
    esac
    shift
done

# Of all files below a directory, by name: equal for equal directories.
checksum() { (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1); }

say "UniDesk, large files: a data set in, a model out, and the object store killed in between."
need_rust
need_build
need_platform
install_missing
started=$(now_ms)
build_programs
tell "built in $(took "$started")"

# The platform, and a node of its own besides -------------------------------------------------------------------------

# PostgreSQL and the tasks have users of their own, who must be able to pass through.
chmod 0711 "$scratch"
mkdir -p "$scratch/far"
port=7860
until port_is_free "$port"; do port=$((port + 1)); done
export UNIDESK_URL=http://127.0.0.1:$port
start_platform() { start platform unidesk up --listen "127.0.0.1:$port" --data-dir "$scratch/up"; }
at_exit "stop far platform"
start_platform
UNIDESK_TOKEN=$(cat "$scratch/up/admin.token")
export UNIDESK_TOKEN UNIDESK_PROGRESS=plain
unidesk node-token create --name far >"$scratch/far.token" 2>"$scratch/far-token.err" ||
    die "no token for the node: $(cat "$scratch/far-token.err")"
# So that nobody waits long for its next try.
say "reconnect_cap_ms = 1000" >"$scratch/far/provider.toml"
say "executors = ['process']" >"$scratch/far/policy.toml"
start far unidesk provider --server "$UNIDESK_URL" --token-file "$scratch/far.token" --data-dir "$scratch/far"
tell "platform with its object store ${pid[platform]}, and another node \"far\" ${pid[far]}"

# In ------------------------------------------------------------------------------------------------------------------

mkdir -p "$scratch/data/images"
for n in 1 2 3 4 5 6 7 8; do head -c $((mib * 131072)) /dev/urandom >"$scratch/data/images/$n.bin"; done
for n in $(seq 200); do say "label $n" >"$scratch/data/label $n.txt"; done
before=$(checksum "$scratch/data")
tell "a data set of $mib MiB in 208 files:  unidesk artifact put data --name dataset"
unidesk artifact put "$scratch/data" --name dataset --limit-rate "$((mib * 1024 / 6))K" 2>&1 | sed -u 's/^/    put | /' &
put=$!
sleep 2
tell "kill -9 ${pid[platform]}: gateway, database and object store are dead in the middle of it."
unplug platform
sleep 1
start_platform
tell "the platform is back, ${pid[platform]}; what was stored stays stored, and the rest follows."
wait "$put" || die "the data set was not stored"

# A task on another node ----------------------------------------------------------------------------------------------

# The model: the data, byte by byte in another order, so that its checksum is known beforehand and it is as large.
train="mkdir out && for n in 8 7 6 5 4 3 2 1; do cat data/images/\$n.bin; done >out/model.bin && ls data | wc -l >out/seen.txt && echo trained"
wanted=$(for n in 8 7 6 5 4 3 2 1; do cat "$scratch/data/images/$n.bin"; done | sha256sum | cut -d ' ' -f 1)
run=(unidesk run "$train" --executor process --node far --input dataset:data --output 'out/model.bin:model' --output 'out/*.txt:notes')
tell "a task on node \"far\" reads it and leaves a model:  unidesk run --node far --input dataset:data --output out/model.bin:model ..."
: >"$scratch/run.out" && : >"$scratch/run.err"
"${run[@]}" >"$scratch/run.out" 2>"$scratch/run.err" </dev/null &
task=$!
(tail -n +1 -f "$scratch/run.out" "$scratch/run.err" 2>/dev/null --pid "$task" -q | sed -u 's/^/    run | /') &
viewer=$!
wait_until 120 eval "grep -q '^trained' '$scratch/run.out' || ! kill -0 $task"
tell "kill -9 ${pid[platform]}: the model is on its way to the store, which is dead now."
unplug platform
sleep 1
start_platform
tell "the platform is back, ${pid[platform]}; node \"far\" has kept everything."
wait "$task" || die "the task did not succeed"
wait "$viewer" 2>/dev/null || true

# Out -----------------------------------------------------------------------------------------------------------------

tell "the model comes out:  unidesk get last --to got"
unidesk get last --to "$scratch/got" 2>&1 | sed 's/^/    get | /'
tell "the same task once more: its data set is on the node already"
"${run[@]}" >"$scratch/again.out" 2>"$scratch/again.err" </dev/null || die "the second task did not succeed"
sed 's/^/    run | /' "$scratch/again.err"
unidesk artifact get dataset --to "$scratch/back" >/dev/null 2>&1

# The verdict ---------------------------------------------------------------------------------------------------------

is_good=1
judge() {
    if [[ $2 == "$3" ]]; then tell "$1: $3, as it should be"; else
        tell "$1: $3, and not $2"
        is_good=0
    fi
}
say
judge "data set, in and out again" "$before" "$(checksum "$scratch/back")"
judge "model" "$wanted" "$(sha256sum "$scratch/got/model.bin" | cut -d ' ' -f 1)"
judge "files that the task saw" 201 "$(tr -d ' ' <"$scratch/got/notes/seen.txt")"
if ! grep -q 'was here\|inputs are there' "$scratch/again.err"; then
    tell "the second task fetched the data set again"
    is_good=0
fi
unidesk audit >"$scratch/audit.out" 2>&1 || {
    sed 's/^/    audit | /' "$scratch/audit.out"
    is_good=0
}
((is_good)) || die "something was not as it should be"
tell "all checksums are equal, after two kills of the platform. $(took "$started") in all."
