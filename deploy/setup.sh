#!/usr/bin/env bash
# Prepares this directory for `docker compose up -d`: settings in .env, secrets in deploy/secrets. Never overwrites what is there,
# so it may be run again at any time.
#
#   deploy/setup.sh                             for this machine only: plain HTTP on 127.0.0.1:7700
#   deploy/setup.sh --port 8080                 the same on another port
#   deploy/setup.sh --domain unidesk.example    for a public server: HTTPS on 443, with a certificate that is got and renewed by itself
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

domain='' port=7700
while (($#)); do
    case $1 in
    --domain)
        domain=${2:-}
        # The name alone, as it stands in addresses.
        [[ $domain =~ ^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$ && $domain == *.* ]] || die "--domain takes a name such as unidesk.example"
        shift
        ;;
    --port)
        port=${2:-}
        if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then die "--port takes a number up to 65535"; fi
        shift
        ;;
    -h | --help)
        sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0"
        exit 0
        ;;
    *) die "unknown: $1; deploy/setup.sh [--domain NAME | --port PORT]" ;;
    esac
    shift
done

# Settings ------------------------------------------------------------------------------------------------------------

# set_to NAME VALUE: in the text of stdin.
set_to() { sed "s|^$1=.*|$1=$2|"; }

if [[ -e .env ]]; then
    printf 'kept     .env\n'
    while IFS='=' read -r name _; do
        grep -q "^$name=" .env || printf 'note     .env has no %s; .env.example says what it is, and its default holds\n' "$name"
    done < <(grep -E '^[A-Z][A-Z0-9_]*=' .env.example)
    if [[ -n $domain ]] && ! grep -qx "UNIDESK_DOMAIN=$domain" .env; then
        printf 'note     .env has another domain; edit the four lines of "Where it is" there\n'
    fi
else
    if [[ -n $domain ]]; then
        url=https://$domain http=80 https=443
    else
        # Nothing listens for HTTPS then; the port is the machine's own.
        url=http://127.0.0.1:$port http=127.0.0.1:$port https=127.0.0.1:$((port < 65493 ? port + 43 : port - 43))
    fi
    # In one step: what is half written would be kept for ever.
    set_to UNIDESK_DOMAIN "$domain" <.env.example | set_to UNIDESK_PUBLIC_URL "$url" | set_to UNIDESK_HTTP "$http" |
        set_to UNIDESK_HTTPS "$https" | set_to UNIDESK_CPUS "$(getconf _NPROCESSORS_ONLN)" >.env.new
    mv .env.new .env
    printf 'made     .env\n'
fi

# Secrets -------------------------------------------------------------------------------------------------------------

# The directory is closed to everybody else on this machine. The files in it are mounted into containers, each of which has a user of
# its own, so they themselves are readable.
secrets=deploy/secrets
mkdir -p "$secrets"
chmod 0700 "$secrets"

# make NAME COMMAND...: what the command prints, unless the file is there.
make() {
    local name=$1 file=$secrets/$1
    shift
    if [[ -s $file ]]; then
        printf 'kept     %s\n' "$file"
        return
    fi
    "$@" >"$file.new"
    chmod 0644 "$file.new"
    mv "$file.new" "$file"
    printf 'made     %s\n' "$file"
}
# 256 random bits.
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
identities() {
    printf '{"identities": [{"name": "unidesk", "credentials": [{"accessKey": "unidesk", "secretKey": "%s"}], "actions": %s}]}\n' \
        "$(cat "$secrets/object-store-key")" '["Admin", "Read", "Write", "List", "Tagging"]'
}

make postgres-password random
make object-store-key random
make object-store-identities identities
make grafana-password random

# What is next --------------------------------------------------------------------------------------------------------

setting() { sed -n "s/^$1=//p" .env | tail -n 1; }
url=$(setting UNIDESK_PUBLIC_URL)
cat <<NEXT

Next:
  docker compose up -d                                           starts the platform: $url
  docker compose run --rm cli node list                          any command of unidesk, as the administrator
  docker compose run --rm cli node-token create --name lab-3     a machine joins: prints what to paste there
  docker compose run --rm --entrypoint cat cli /var/lib/unidesk/admin.token
                                                                 the administrator's key, for \`unidesk login $url\` elsewhere
NEXT
if [[ -n $(setting UNIDESK_DOMAIN) ]]; then
    printf 'The name %s must lead to this machine, and ports 80 and 443 must be open to it.\n' "$(setting UNIDESK_DOMAIN)"
else
    printf '%s\n' "warning: without a domain this is plain HTTP, for this machine only; other machines can't join." \
        "         For a public server: rm .env, then deploy/setup.sh --domain unidesk.example"
fi
printf 'Keep a copy of deploy/secrets and .env: without them the data can not be opened.\n'
