/*
 * Runs a fuzz target without a fuzzer: every file of the corpus as it is, then cut short at every
 * length (small files) and with single bytes changed, from a fixed seed so that two runs are equal.
 *
 *   fuzz_NAME [-n MUTATIONS] PATH...    files, or directories of files
 *
 * What must hold: the target returns, under the sanitizers, whatever it is fed. The input under way
 * is written to the file crash-NAME when the process dies, so that it can be fed again.
 */
#include "common/alloc.h"
#include "common/names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INPUT_MAX = 4 << 20, CUT_MAX = 512, MUTATIONS_DEFAULT = 2000, DEPTH_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is being tried now, for the crash handler. */
static const uint8_t *volatile current;
static volatile size_t current_len;
static char crash_file[256];

static void keep_input(void)
{
    int fd = open(crash_file, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    if (fd >= 0) {
        ssize_t n = write(fd, current, current_len);

        (void)n;
        (void)close(fd);
    }
}

static void on_crash(int sig)
{
    keep_input();
    (void)raise(sig); /* SA_RESETHAND: now it ends the process */
}

/* There when built with a sanitizer, which ends the process without a signal. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void try_input(const uint8_t *data, size_t size)
{
    /* A copy of exact size, so that the sanitizer sees a read behind the end. */
    uint8_t *copy = kl_malloc(size == 0 ? 1 : size);

    if (copy == NULL) {
        return;
    }
    if (size > 0) {
        memcpy(copy, data, size);
    }
    current = copy;
    current_len = size;
    (void)LLVMFuzzerTestOneInput(copy, size);
    current_len = 0;
    kl_free(copy);
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 2685821657736338717ULL;
}

/* One to four changes: a byte replaced, a bit flipped, a byte removed, or a length-like run of 0xff. */
static size_t mutate(uint8_t *data, size_t size, uint64_t *seed)
{
    unsigned changes = 1u + (unsigned)(next_random(seed) % 4);

    for (unsigned i = 0; i < changes && size > 0; i++) {
        size_t at = (size_t)(next_random(seed) % size);

        switch (next_random(seed) % 4) {
        case 0:
            data[at] = (uint8_t)next_random(seed);
            break;
        case 1:
            data[at] ^= (uint8_t)(1u << (next_random(seed) % 8));
            break;
        case 2:
            memmove(data + at, data + at + 1, size - at - 1);
            size--;
            break;
        default:
            memset(data + at, 0xff, size - at < 4 ? size - at : 4);
            break;
        }
    }
    return size;
}

static unsigned long replay(const uint8_t *data, size_t size, unsigned long mutations)
{
    uint64_t seed = 0x9e3779b97f4a7c15ULL ^ size;
    unsigned long tried = 1;
    uint8_t *work = kl_malloc(size + 1);

    if (work == NULL) {
        return 0;
    }
    try_input(data, size);
    for (size_t cut = 0; cut < size && cut < CUT_MAX; cut++, tried++) {
        try_input(data, cut);
    }
    for (unsigned long i = 0; i < mutations; i++, tried++) {
        memcpy(work, data, size);
        try_input(work, mutate(work, size, &seed));
    }
    kl_free(work);
    return tried;
}

/* The file's bytes, or NULL with a message. */
static uint8_t *read_file(const char *path, size_t *len)
{
    uint8_t *data = kl_malloc(INPUT_MAX);
    FILE *f = fopen(path, "rb");

    if (data == NULL || f == NULL) {
        (void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
        kl_free(data);
        if (f != NULL) {
            (void)fclose(f);
        }
        return NULL;
    }
    *len = fread(data, 1, INPUT_MAX, f);
    (void)fclose(f);
    return data;
}

/* Inputs tried below path, 0 when something could not be read. */
static unsigned long walk(const char *path, unsigned long mutations, int depth)
{
    const struct dirent *entry;
    DIR *dir;
    struct stat st;
    unsigned long tried = 0;
    size_t len = 0;

    if (stat(path, &st) != 0 || depth > DEPTH_MAX) {
        (void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 0;
    }
    if (!S_ISDIR(st.st_mode)) {
        uint8_t *data = read_file(path, &len);

        tried = data == NULL ? 0 : replay(data, len, mutations);
        kl_free(data);
        return tried;
    }
    dir = opendir(path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char child[4096];

        if (entry->d_name[0] != '.') {
            (void)snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
            tried += walk(child, mutations, depth + 1);
        }
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    return tried;
}

int main(int argc, char **argv)
{
    const int signals[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL};
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};
    unsigned long tried = 0;
    uint64_t mutations = MUTATIONS_DEFAULT;
    const char *base = strrchr(argv[0], '/');
    int first = 1;

    (void)snprintf(crash_file, sizeof crash_file, "crash-%s", base == NULL ? argv[0] : base + 1);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        (void)sigaction(signals[i], &action, NULL);
    }
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(keep_input);
    }
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        if (kl_number_parse(argv[2], 0, 1000000000, &mutations) != KL_OK) {
            (void)fprintf(stderr, "-n takes a number\n");
            return 2;
        }
        first = 3;
    }
    for (int i = first; i < argc; i++) {
        tried += walk(argv[i], (unsigned long)mutations, 0);
    }
    try_input(NULL, 0);
    (void)printf("%lu inputs tried\n", tried);
    if (tried == 0) {
        (void)fprintf(stderr, "no corpus: nothing was tried\n");
        return 1;
    }
    return 0;
}
