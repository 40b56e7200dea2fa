#!/usr/bin/env bash
# Writes .sqlx: what PostgreSQL says about every query of `store`, so that a build needs no database. Run it after a change
# of a query or of a migration, and commit the result.
#
#   scripts/sqlx-prepare.sh            writes .sqlx
#   scripts/sqlx-prepare.sh --check    changes nothing; fails and names what is missing, different or no longer used
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
source scripts/lib/machine.sh

case ${1:-} in
'' | --check) mode=${1:-} ;;
*) die "unknown: $1" "scripts/sqlx-prepare.sh [--check]" ;;
esac

server=${UNIDESK_TEST_DATABASE_URL:-$(scripts/test-database.sh)}
psql=$(postgres_bin)/psql
database=sqlx_prepare_$$
in_server() { "$psql" -XAtq -v ON_ERROR_STOP=1 -d "$server" "$@"; }
in_server -c "CREATE DATABASE $database"
at_exit "in_server -c 'DROP DATABASE $database WITH (FORCE)'"
# Only the path of the URL changes.
authority=${server#*://}
query=
[[ $authority == *\?* ]] && query="?${authority#*\?}"
export DATABASE_URL="${server%%://*}://${authority%%[/?]*}/$database$query"

for migration in migrations/*.sql; do
    transaction=--single-transaction
    head -n 1 "$migration" | grep -q '^-- no-transaction' && transaction=
    # shellcheck disable=SC2086 # no argument at all when empty
    PGOPTIONS='-c client_min_messages=warning' "$psql" -Xq -v ON_ERROR_STOP=1 $transaction -d "$DATABASE_URL" -f "$migration" >/dev/null ||
        die "$migration does not run on an empty database" "PostgreSQL's own words are above."
done

fresh=$scratch/sqlx
mkdir "$fresh"
# The macros ask the database only when their crate is compiled, and cargo does not know that the database is an input. So
# the crate is made to look new for this one check, and old again afterwards, lest everything above it be built again.
source_file=crates/store/src/lib.rs
touch -r "$source_file" "$scratch/mtime"
at_exit "touch -r '$scratch/mtime' '$repo/$source_file'"
touch "$source_file"
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$fresh cargo check --quiet --locked -p store --all-targets ||
    die "store does not compile against the migrated database" "The compiler's own words are above."

queries=$(grep -rnoE 'sqlx::query(_as|_scalar)?(_unchecked)?!' crates/store/src | wc -l)
written=$(find "$fresh" -name 'query-*.json' | wc -l)
# Equal queries share a file, so fewer are fine; none is not.
if ((queries > 0 && written == 0)); then
    die "cargo check wrote no query file, though store has $queries checked queries"
fi

if [[ $mode == --check ]]; then
    mkdir -p .sqlx
    if ! diff -rq "$fresh" .sqlx | sed -e "s,Only in $fresh: ,missing in .sqlx: ," -e 's,Only in .sqlx: ,no longer used: .sqlx/,' -e 's,^Files .* and \(.*\) differ,different: \1,' >"$scratch/stale"; then
        cat "$scratch/stale"
        die ".sqlx does not fit the queries and the migrations" "scripts/sqlx-prepare.sh, and commit .sqlx"
    fi
    say ".sqlx is fresh: $written queries"
else
    mkdir -p .sqlx
    rm -f .sqlx/query-*.json
    cp "$fresh"/query-*.json .sqlx/ 2>/dev/null || true
    say ".sqlx has $written queries"
fi
