/* What both ways to have sites share. */
#include "tests/drills/site.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONTROL_PORT = 7099, TRIES = 100, TRY_MS = 100, RULE_MAX = 256, PATH_LEN = 1024 };

static const char *const names[SITES] = {"west", "east", "hill"};

const char *site_name(unsigned site)
{
    return names[site];
}

unsigned site_of_node(unsigned node)
{
    return node / 2;
}

/* One datagram and its answer; the router may still be starting. */
void site_rule(const char *format, ...)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(CONTROL_PORT)};
    struct timeval wait = {.tv_usec = TRY_MS * 1000};
    char rule[RULE_MAX];
    char answer[RULE_MAX] = "no answer";
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    va_list args;

    va_start(args, format);
    (void)vsnprintf(rule, sizeof rule, format, args);
    va_end(args);
    (void)inet_pton(AF_INET, "10.89.1.253", &to.sin_addr);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    for (int i = 0; fd >= 0 && i < TRIES; i++) {
        ssize_t n = -1;

        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
            send(fd, rule, strlen(rule), 0) > 0) {
            n = recv(fd, answer, sizeof answer - 1, 0);
        }
        if (n > 0) {
            answer[n] = 0;
            break;
        }
        harness_sleep_ms(TRY_MS / 10);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    if (strcmp(answer, "ok") != 0) {
        (void)fprintf(stderr, "sites: the router does not take '%s': %s\n", rule, answer);
        exit(1);
    }
}

void site_dark(unsigned site, bool dark)
{
    site_rule("%s * down=%d", names[site], dark);
    site_rule("* %s down=%d", names[site], dark);
}

int site_run(const char *const *words, char *out, size_t out_len)
{
    char *argv[SITE_WORDS_MAX];
    int fds[2];
    size_t used = 0;
    size_t n = 0;
    ssize_t got;
    int status = 0;
    pid_t pid;

    for (; n < SITE_WORDS_MAX - 1 && words[n] != NULL; n++) {
        argv[n] = strdup(words[n]);
    }
    assert(words[n] == NULL);
    argv[n] = NULL;
    if (pipe(fds) != 0 || (pid = fork()) < 0) {
        (void)fprintf(stderr, "sites: fork: %s\n", strerror(errno));
        exit(1);
    }
    if (pid == 0) {
        (void)dup2(fds[1], STDOUT_FILENO);
        (void)dup2(fds[1], STDERR_FILENO);
        (void)close(fds[0]);
        (void)close(fds[1]);
        (void)execvp(argv[0], argv);
        _exit(127);
    }
    (void)close(fds[1]);
    do {
        char drop[256];
        bool keep = out != NULL && used + 1 < out_len;

        got = read(fds[0], keep ? out + used : drop, keep ? out_len - 1 - used : sizeof drop);
        used += keep && got > 0 ? (size_t)got : 0;
    } while (got > 0);
    (void)close(fds[0]);
    if (out != NULL && out_len != 0) {
        out[used] = 0;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    for (size_t i = 0; i < n; i++) {
        free(argv[i]);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

const char *site_program(const char *name)
{
    static char path[PATH_LEN];
    char self[PATH_LEN / 2];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n <= 0) {
        (void)fprintf(stderr, "sites: cannot find this program\n");
        exit(1);
    }
    self[n] = 0;
    *strrchr(self, '/') = 0;
    (void)snprintf(path, sizeof path, "%s/%s", self, name);
    return path;
}
