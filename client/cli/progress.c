/*
 * A line on standard error that says what takes so long; only for people at a terminal.
 */
#include "client/cli/cli.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

struct kl_cli_progress {
    FILE *err;
    const char *what;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool over;
};

static void *tick(void *arg)
{
    struct kl_cli_progress *p = arg;
    struct timespec until;
    unsigned seconds = 0;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    (void)pthread_mutex_lock(&p->lock);
    while (!p->over) {
        until.tv_sec++;
        while (!p->over && pthread_cond_timedwait(&p->cond, &p->lock, &until) == 0) {
        }
        if (!p->over) {
            (void)fprintf(p->err, "\r%s... %u s", p->what, ++seconds);
            (void)fflush(p->err);
        }
    }
    (void)pthread_mutex_unlock(&p->lock);
    if (seconds != 0) {
        (void)fputs("\r\033[K", p->err);
        (void)fflush(p->err);
    }
    return NULL;
}

struct kl_cli_progress *kl_cli_progress_start(struct kl_cli *cli, const char *what)
{
    struct kl_cli_progress *p;
    pthread_condattr_t attr;
    int fd = fileno(cli->world->err);

    if (fd < 0 || isatty(fd) == 0) {
        return NULL;
    }
    p = kl_cli_keep(cli, sizeof *p);
    p->err = cli->world->err;
    p->what = what;
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&p->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    return pthread_create(&p->thread, NULL, tick, p) == 0 ? p : NULL;
}

void kl_cli_progress_end(struct kl_cli_progress *p)
{
    if (p == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&p->lock);
    p->over = true;
    (void)pthread_cond_signal(&p->cond);
    (void)pthread_mutex_unlock(&p->lock);
    (void)pthread_join(p->thread, NULL);
    (void)pthread_cond_destroy(&p->cond);
    (void)pthread_mutex_destroy(&p->lock);
}
