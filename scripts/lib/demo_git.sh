# The demo's two Git repositories and the server that hands them out. Sourced after machine.sh.
# shellcheck shell=bash disable=SC2154

# make_repository DIR FILES: a bare repository with one commit of these files; prints the commit's id. The same files give
# the same id on every machine, since author and time are fixed: what the first run has built, the second one finds.
make_repository() {
    local dir=$1 files=$2 tree commit
    (
        # Nobody's own settings (signing, hooks, templates) belong into it.
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_DIR=$dir GIT_INDEX_FILE=$scratch/index
        export GIT_AUTHOR_NAME=demo GIT_AUTHOR_EMAIL=demo@localhost GIT_AUTHOR_DATE='2026-01-01T00:00:00Z'
        export GIT_COMMITTER_NAME=demo GIT_COMMITTER_EMAIL=demo@localhost GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
        rm -f "$GIT_INDEX_FILE"
        [[ -d $dir/objects ]] || git init -q --bare --template= --initial-branch=main "$dir"
        GIT_WORK_TREE=$files git add --all --force .
        tree=$(git write-tree)
        commit=$(git commit-tree -m 'What the demo runs' "$tree")
        git update-ref refs/heads/main "$commit"
        printf '%s' "$commit"
    )
}

# serve_repositories DIR PORT: every DIR/NAME.git as http://127.0.0.1:PORT/cgi-bin/NAME.git, for reading only.
# Git brings its own server as a CGI program; busybox, which is here for the test images, has a web server that runs one.
serve_repositories() {
    local dir=$1 port=$2 site=$scratch/site repository name
    mkdir -p "$site/cgi-bin"
    for repository in "$dir"/*.git; do
        name=$(basename "$repository")
        cat >"$site/cgi-bin/$name" <<CGI
#!/bin/sh
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE REMOTE_USER
export GIT_PROJECT_ROOT='$dir' GIT_HTTP_EXPORT_ALL=1 GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export PATH_INFO="/$name\$PATH_INFO"
exec git http-backend
CGI
        chmod +x "$site/cgi-bin/$name"
    done
    setsid busybox httpd -f -p "127.0.0.1:$port" -h "$site" >"$scratch/httpd.log" 2>&1 </dev/null &
    local pid=$!
    at_exit "stop_process $pid 5"
    wait_until 10 eval "! port_is_free $port" || {
        sed 's/^/  | /' "$scratch/httpd.log" >&2
        die "the demo's Git server did not come up on port $port"
    }
}
