#!/usr/bin/env bash
# Writes the figures of docs/reliability.md from docs/reliability.jsonl, which has a line for each fault that was measured.
#
#   scripts/reliability-report.sh                       the document only
#   scripts/reliability-report.sh F06 F13               runs these first; their new lines take the place of the old ones
#   scripts/reliability-report.sh F06 --real-times      at the product's own times; each has a line of its own for that
#   scripts/reliability-report.sh all                   every fault
#
# What failed is written down too, and then this ends with 1. To run faults needs root.
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

case ${1:-} in
-h | --help)
    sed -n '2,/^source/{s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
esac
lines=docs/reliability.jsonl
chaos=${CARGO_TARGET_DIR:-target}/debug/chaos
cargo build --quiet --locked -p chaos
failed=0
if (($#)); then
    cargo build --quiet --locked -p unidesk -p shim
    scripts/build-shim.sh
    [[ $1 != all ]] || shift
    "$chaos" "$@" --json "$lines" || failed=1
fi
"$chaos" --json "$lines" --table docs/reliability.md
((failed == 0))
