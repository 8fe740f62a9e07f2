/*
 * The server's log lines become part of the story. These stand in for server/runtime/log.c, whose
 * lines carry the real time.
 */
#include "server/runtime/log.h"

#include "tests/sim/parts.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local struct sim_world *world;

void sim_log_to(struct sim_world *w)
{
    world = w;
}

void kl_log_set_level(enum kl_log_level level)
{
    (void)level;
}

enum kl_status kl_log_level_parse(const char *text, enum kl_log_level *out)
{
    (void)text;
    *out = KL_LOG_INFO;
    return KL_OK;
}

void kl_log(enum kl_log_level level, const char *area, const char *format, ...)
{
    char line[512];
    va_list args;

    (void)level;
    if (world == NULL || world->verbose == 0) {
        return;
    }
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    sim_say(world, "[%s] %s", area, line);
}
