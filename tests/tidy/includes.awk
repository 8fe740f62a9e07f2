# The include graph (README, "Layers"): what each folder may include. A row:
#   folder   quoted includes that are allowed (* stands for one path component)   system includes
# System includes: "-RE" forbids what matches, "+RE" allows only what matches, "" allows all.
# A folder's own headers are always allowed. Tests may include anything.
BEGIN {
    pure = "+^(assert|errno|inttypes|limits|stdalign|stdarg|stdbool|stddef|stdint|stdio|stdlib|string|strings|ctype)\\.h$|^protobuf-c/"
    no_io = "-^(pthread|threads|time|signal|netdb|poll|unistd|fcntl|uv|raft|semaphore)\\.h$|^(sys|netinet|arpa|nng|leveldb|raft)/"
    no_net = "-^(netdb|poll|uv|raft)\\.h$|^sys/(socket|epoll)\\.h$|^(netinet|arpa|nng|raft)/"

    row("common", "", no_io)
    row("common/net", "common/*", "-^(uv|raft)\\.h$|^(leveldb|raft)/|^protobuf-c/")
    row("server/core", "common/* record.pb-c.h command.pb-c.h", pure)
    row("server/store", "common/*", no_net)
    row("server/runtime", "common/*", no_net)
    row("server/crypto", "common/* server/runtime/clock.h record.pb-c.h", no_net)
    row("server/auth", "common/*", no_io)
    row("server/audit", "common/* server/runtime/*", no_net)
    row("server/raft", "common/* common/net/* server/core/* server/store/* server/runtime/* *.pb-c.h", "")
    row("server/handlers", "common/* server/core/* server/crypto/* server/auth/* server/audit/audit.h " \
        "server/raft/group.h server/runtime/clock.h *.pb-c.h", no_io)
    row("server/rpc", "common/* common/net/* server/handlers/* server/audit/* server/auth/* server/crypto/* " \
        "server/core/* server/raft/* server/runtime/* *.pb-c.h", "-^(raft|uv)\\.h$|^(leveldb|raft)/")
    row("server/retention", "common/* server/core/* server/raft/* server/runtime/* *.pb-c.h", no_net)
    row("server", "common/* common/net/* server/* server/*/* *.pb-c.h", "")
    row("client/lib", "common/* common/net/* client/include/kluis.h kluis.h rpc.pb-c.h", "-^(raft|uv)\\.h$|^(leveldb|raft)/")
    row("client/include", "", "+^std(bool|def|int)\\.h$")
    row("client/cli", "common/* client/include/kluis.h kluis.h rpc.pb-c.h", "-^(raft|uv)\\.h$|^(leveldb|raft|nng|openssl)/")
    row("client/examples", "kluis.h connect.h", "-^(raft|uv)\\.h$|^(leveldb|raft|nng|openssl|protobuf-c)/")
}
function row(folder, quoted, sys,    n, i, words, re) {
    n = split(quoted, words, " ")
    for (i = 1; i <= n; i++) {
        re = words[i]
        gsub(/\./, "\\.", re)
        gsub(/\*/, "[^/]*", re)
        allowed[folder] = allowed[folder] (allowed[folder] == "" ? "" : "|") re
    }
    known[folder] = 1
    sysrule[folder] = sys
}
function report(what) { print FILENAME ":" FNR ": " what; found = 1 }
FNR == 1 {
    folder = FILENAME
    sub(/\/[^\/]*$/, "", folder)
    home = folder
    if (FILENAME ~ /^tests\//) nextfile_ = 1
    else {
        nextfile_ = 0
        if (!(folder in known)) report("this folder has no row in tests/tidy/includes.awk")
    }
}
nextfile_ || !(folder in known) { next }
/^[ \t]*#[ \t]*include[ \t]*"/ {
    path = $0
    sub(/^[^"]*"/, "", path); sub(/".*/, "", path)
    dir = path
    if (!sub(/\/[^\/]*$/, "", dir)) dir = ""
    if (dir == home) next
    if (allowed[folder] == "" || path !~ ("^(" allowed[folder] ")$")) {
        report(home " must not include \"" path "\"")
    }
}
/^[ \t]*#[ \t]*include[ \t]*</ {
    path = $0
    sub(/^[^<]*</, "", path); sub(/>.*/, "", path)
    if (folder == "client/examples" && path == "kluis.h") next
    rule = sysrule[folder]
    re = substr(rule, 2)
    if (rule ~ /^\+/ && path !~ re || rule ~ /^-/ && path ~ re) {
        report(home " must not include <" path ">")
    }
}
END { exit found }
