# Calls that may stand only in their home. A row: ban(calls, where, home, what to do instead).
# where and home are patterns on the path; a row holds where `where` matches and `home` does not.
# memcmp and == on public bytes are fine: such a line says so in a comment with "not secret".
BEGIN {
    code = "^(common|server|client|tests)/"
    product = "^(common|server|client)/"
    ban("malloc|calloc|realloc|reallocarray|free|strdup|strndup|aligned_alloc|posix_memalign", product,
        "^common/alloc\\.c$|^client/examples/", "the heap has one door: common/alloc.h")
    ban("strcpy|strcat|stpcpy|sprintf|vsprintf|gets|strncpy|strncat|alloca", code, "^$",
        "unbounded or unterminated: use kl_buf or snprintf")
    ban("atoi|atol|atoll|atof|scanf|fscanf|sscanf", code, "^$", "no errors, no range: kl_number_parse")
    ban("strtok|asctime|ctime|gmtime|localtime|tmpnam|mktemp|tempnam|readdir_r", code, "^$",
        "not safe between threads: use the _r form or mkstemp")
    ban("rand|srand|rand_r|random|srandom|drand48|lrand48", code, "^$",
        "draw from struct kl_entropy, or test_random with the printed seed")
    ban("system|popen|wordexp", product, "^$", "no shell: fork and exec with a list of arguments")
    ban("time|gettimeofday|ftime", code, "^$", "time comes from struct kl_clock")
    # The two server files hand the time straight to a timed wait.
    ban("clock_gettime|uv_hrtime|nng_clock", product,
        "^server/runtime/clock\\.c$|^client/|^common/net/|^server/steward\\.c$|^server/raft/peers\\.c$",
        "the server reads clocks through struct kl_clock only")
    ban("RAND_bytes|RAND_priv_bytes|getrandom|getentropy", product,
        "^server/runtime/clock\\.c$|^server/crypto/ca\\.c$|^client/",
        "the server draws through struct kl_entropy only")
    ban("memcmp", "^server/(auth|crypto)/", "^$",
        "compare secrets with CRYPTO_memcmp; a public comparison says \"not secret\"")
    ban("strcmp|strncmp|strcasecmp", "^server/auth/", "^$",
        "compare secrets with CRYPTO_memcmp; a public comparison says \"not secret\"")
    ban("memset|bzero|explicit_bzero", "^server/(auth|crypto)/", "^$",
        "wipe with kl_wipe; initialise with an initialiser")
    ban("printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|fputc|perror|dprintf|vdprintf|warn|warnx",
        product, "^server/(main|dev|recover|tools|options|runtime/log)\\.c$|^client/(cli|examples)/",
        "libraries do not talk: return a status")
    ban("syslog|kl_log", product, "^server/(raft|rpc|runtime)/|^server/[a-z_]+\\.c$",
        "only raft, rpc and the node log")
    ban("exit|_exit|_Exit|quick_exit|abort|err|errx|raise", product,
        "^server/[a-z_]+\\.c$|^server/raft/host_uv\\.c$|^client/(cli|examples)/", "a library never ends the process: return a status")
    ban("pthread_[a-z_]+", "^(common/[^/]*$|server/(core|auth|handlers)/)", "^$",
        "no threads or locks in this layer")
    ban("setjmp|longjmp|sigsetjmp|siglongjmp|signal|vfork", product, "^client/cli/",
        "not in this code base: sigaction, fork and exec, or a status")
    # The drain at the end of a node polls: it has nothing else to do.
    ban("usleep|sleep|nanosleep", product, "^server/node\\.c$|^client/(cli|examples)/",
        "wait for a condition, not for time")
}
function ban(calls, where, home, advice) {
    rows++
    row_calls[rows] = "(^|[^A-Za-z0-9_.>])(" calls ")[ \t]*\\("
    row_where[rows] = where
    row_home[rows] = home
    row_advice[rows] = advice
}
function report(what) { print FILENAME ":" FNR ": " what; found = 1 }
FNR == 1 {
    strip_reset()
    active = 0
    for (i = 1; i <= rows; i++) {
        if (FILENAME ~ row_where[i] && FILENAME !~ row_home[i]) on[++active] = i
    }
    is_c = FILENAME !~ /\.cc$/
}
{
    line = strip($0)
    if (is_c && index(line, "//") > 0) report("// comment: write /* */")
    if (line ~ /^[ \t]*typedef[ \t]+(struct|union|enum)[ \t]/ && line !~ /\(/) report("typedef of a struct: name it struct")
    if (line ~ /^[ \t]*#[ \t]*pragma[ \t]+once/) report("#pragma once: use a guard")
    if (line ~ /^[ \t]*#[ \t]*define.*[^A-Za-z0-9_]return[^A-Za-z0-9_]/) report("a macro hides return")
    if (index(line, "(") == 0) next
    for (k = 1; k <= active; k++) {
        i = on[k]
        if (match(line, row_calls[i])) {
            if ($0 ~ /\/\*.*not secret.*\*\//) continue
            call = substr(line, RSTART, RLENGTH)
            gsub(/[^A-Za-z0-9_]/, "", call)
            report(call "(): " row_advice[i])
        }
    }
}
END { exit found }
