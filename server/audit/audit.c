/*
 * A line of the trail, keys always in this order:
 *
 *   {"time":"2026-01-02T03:04:05.678Z","principal":"ops","remote":"127.0.0.1:5000",
 *    "method":"/kluis.v1.Secrets/Get","subject":"vault/name","status":"OK","duration_us":412,
 *    "request_id":"…"}
 *
 * and, when records had to be dropped (queue full, disk full), before the next line that could be
 * written:
 *
 *   {"time":"…","lost":17}
 *
 * The caller makes the line, so that a record costs one small block; the thread joins lines into
 * large writes. A write that fails is cut off again: the file holds whole lines only.
 */
#include "server/audit/audit.h"

#include "common/alloc.h"
#include "common/buf.h"
#include "common/limits.h"
#include "common/names.h"
#include "server/runtime/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    FIELD_LEN_MAX = 512,      /* of one escaped string */
    WRITE_LEN_MAX = 64 << 10, /* of one write */
    LOST_LEN_MAX = 96,
};

struct item {
    struct kl_mail mail; /* first */
    uint64_t time_ms;
    size_t len;
    char line[];
};

struct kl_audit {
    char *path; /* NULL: no trail, and no thread */
    size_t file_max;
    unsigned files_max;
    struct kl_mailbox box;
    sem_t wake; /* posted when the box becomes non-empty, and at the end */
    atomic_bool stop;
    _Atomic uint64_t lost;
    pthread_t thread;
    /* The thread's own. */
    int fd;
    size_t size;            /* of the file, whole lines only */
    struct kl_buf out;      /* lines for the next write */
    size_t out_records;     /* records among them */
    uint64_t lost_reported; /* of `lost`, what the file tells */
    uint64_t out_lost;      /* of `lost`, what a line in `out` tells; 0 = no such line */
    uint64_t last_ms;       /* time of the newest record */
};

/* ---- lines ---- */

/* One character of a JSON string (RFC 8259, 7): its bytes, or its escape. Returns the length. */
static size_t escape(unsigned char c, bool utf8, char out[8])
{
    if (c == '"' || c == '\\') {
        out[0] = '\\';
        out[1] = (char)c;
        return 2;
    }
    if (c < 0x20 || c == 0x7f) {
        return (size_t)snprintf(out, 8, "\\u%04x", c);
    }
    if (c >= 0x80 && !utf8) {
        memcpy(out, "\\ufffd", 6);
        return 6;
    }
    out[0] = (char)c;
    return 1;
}

/* Cut at FIELD_LEN_MAX, between characters. text may be NULL. */
static enum kl_status put_string(struct kl_buf *b, const char *key, const char *text)
{
    char field[FIELD_LEN_MAX + 16];
    bool utf8 = text != NULL && kl_text_check(text, FIELD_LEN_MAX) == KL_OK;
    size_t len = 0;

    for (; text != NULL && *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (len >= FIELD_LEN_MAX - 8 && (!utf8 || (c & 0xc0) != 0x80)) {
            memcpy(field + len, "...", 3);
            len += 3;
            break;
        }
        len += escape(c, utf8, field + len);
    }
    return kl_buf_printf(b, ",\"%s\":\"%.*s\"", key, (int)len, field);
}

static enum kl_status put_time(struct kl_buf *b, uint64_t time_ms)
{
    time_t seconds = (time_t)(time_ms / 1000u);
    char text[32];
    struct tm utc;

    if (gmtime_r(&seconds, &utc) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc) == 0) {
        return kl_buf_printf(b, "{\"time\":\"\"");
    }
    return kl_buf_printf(b, "{\"time\":\"%s.%03uZ\"", text, (unsigned)(time_ms % 1000u));
}

static enum kl_status put_record(struct kl_buf *b, const struct kl_audit_record *r)
{
    const struct {
        const char *key;
        const char *text;
    } strings[] = {
        {"principal", r->principal}, {"remote", r->remote}, {"method", r->method},
        {"subject", r->subject},     {"status", r->status},
    };
    enum kl_status st = put_time(b, r->time_ms);

    for (size_t i = 0; st == KL_OK && i < sizeof strings / sizeof strings[0]; i++) {
        st = put_string(b, strings[i].key, strings[i].text);
    }
    if (st == KL_OK) {
        st = kl_buf_printf(b, ",\"duration_us\":%" PRIu64, r->duration_us);
    }
    if (st == KL_OK) {
        st = put_string(b, "request_id", r->request_id);
    }
    return st == KL_OK ? kl_buf_put(b, "}\n", 2) : st;
}

static enum kl_status item_new(const struct kl_audit_record *record, struct item **out)
{
    struct kl_buf line = KL_BUF(KL_AUDIT_LINE_MAX);
    enum kl_status st = put_record(&line, record);
    struct item *item = NULL;

    if (st == KL_OK) {
        item = kl_malloc(sizeof *item + line.len);
        st = item == NULL ? KL_NO_MEMORY : KL_OK;
    }
    if (st == KL_OK) {
        item->time_ms = record->time_ms;
        item->len = line.len;
        memcpy(item->line, line.ptr, line.len);
        *out = item;
    }
    kl_buf_wipe(&line);
    return st;
}

/* ---- the file ---- */

/* A crash of the machine can leave half a line at the end: the next one then begins afresh. */
static bool ends_within_line(int fd, size_t size)
{
    char last = '\n';

    return size != 0 && pread(fd, &last, 1, (off_t)size - 1) == 1 && last != '\n';
}

static bool open_file(struct kl_audit *a)
{
    struct stat s;

    a->fd = open(a->path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (a->fd < 0) {
        return false;
    }
    if (fstat(a->fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        (void)close(a->fd);
        a->fd = -1;
        errno = EINVAL;
        return false;
    }
    a->size = (size_t)s.st_size;
    if (ends_within_line(a->fd, a->size) && write(a->fd, "\n", 1) == 1) {
        a->size++;
    }
    return true;
}

/* PATH.n-1 becomes PATH.n, …, PATH becomes PATH.1; the oldest is replaced. */
static void rotate(struct kl_audit *a)
{
    char from[PATH_MAX];
    char to[PATH_MAX];

    (void)fsync(a->fd);
    (void)close(a->fd);
    a->fd = -1;
    for (unsigned i = a->files_max; i >= 1; i--) {
        (void)snprintf(to, sizeof to, "%s.%u", a->path, i);
        (void)snprintf(from, sizeof from, i == 1 ? "%s" : "%s.%u", a->path, i - 1);
        (void)rename(from, to); /* absent ones are skipped */
    }
    if (a->files_max == 0) {
        (void)unlink(a->path);
    }
    (void)open_file(a);
}

/* Writes what has gathered. What cannot be written is lost, and counted. */
static void flush(struct kl_audit *a)
{
    size_t done = 0;

    if (a->fd < 0) {
        (void)open_file(a);
    }
    while (a->fd >= 0 && done < a->out.len) {
        ssize_t n = write(a->fd, a->out.ptr + done, a->out.len - done);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
        done += (size_t)n;
    }
    if (done == a->out.len) {
        a->size += done;
        a->lost_reported = a->out_lost != 0 ? a->out_lost : a->lost_reported;
    } else {
        (void)atomic_fetch_add(&a->lost, a->out_records);
        if (a->fd >= 0 && ftruncate(a->fd, (off_t)a->size) != 0) {
            (void)close(a->fd); /* opened again, and looked at, by the next flush */
            a->fd = -1;
        }
    }
    kl_buf_clear(&a->out);
    a->out_records = 0;
    a->out_lost = 0;
}

/* Gathers one line; out is flushed when it would not fit, and the file rotated. */
static void gather(struct kl_audit *a, const char *line, size_t len, size_t records)
{
    bool full = a->size + a->out.len + len > a->file_max && a->size + a->out.len != 0;

    if (full || a->out.len + len > WRITE_LEN_MAX) {
        flush(a);
    }
    if (full && a->fd >= 0 && a->size != 0) {
        rotate(a);
    }
    if (kl_buf_put(&a->out, line, len) == KL_OK) {
        a->out_records += records;
    } else {
        (void)atomic_fetch_add(&a->lost, records);
    }
}

/* Tells of records that were lost since the last line that told of some. */
static void gather_lost(struct kl_audit *a, uint64_t time_ms)
{
    uint64_t lost = atomic_load(&a->lost);
    struct kl_buf line = KL_BUF(LOST_LEN_MAX);

    if (lost != a->lost_reported && a->out_lost == 0 && put_time(&line, time_ms) == KL_OK &&
        kl_buf_printf(&line, ",\"lost\":%" PRIu64 "}\n", lost - a->lost_reported) == KL_OK) {
        gather(a, (const char *)line.ptr, line.len, 0);
        a->out_lost = lost;
    }
    kl_buf_wipe(&line);
}

/* ---- the thread ---- */

static void write_items(struct kl_audit *a, struct kl_mail *list)
{
    while (list != NULL) {
        struct item *item = (struct item *)list; /* mail is its first member */

        list = list->next;
        a->last_ms = item->time_ms;
        gather_lost(a, item->time_ms);
        gather(a, item->line, item->len, 1);
        kl_free(item);
    }
    flush(a);
}

static void *run(void *arg)
{
    struct kl_audit *a = arg;
    bool stop;

    do {
        while (sem_wait(&a->wake) != 0) {
            assert(errno == EINTR);
        }
        stop = atomic_load(&a->stop);
        write_items(a, kl_mailbox_take(&a->box));
    } while (!stop);
    gather_lost(a, a->last_ms);
    flush(a);
    return NULL;
}

static enum kl_status start(struct kl_audit *a)
{
    sigset_t all;
    sigset_t old;
    int rc;

    (void)sigfillset(&all); /* signals are for the thread that handles them */
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&a->thread, NULL, run, a);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        return KL_NO_MEMORY;
    }
    (void)pthread_setname_np(a->thread, "kluis-audit");
    return KL_OK;
}

/* Everything but the thread. */
static void release(struct kl_audit *a)
{
    if (a->fd >= 0) {
        (void)fsync(a->fd);
        (void)close(a->fd);
    }
    kl_buf_wipe(&a->out);
    (void)sem_destroy(&a->wake);
    kl_mailbox_done(&a->box);
    kl_free(a->path);
    kl_free(a);
}

/* ---- what others call ---- */

static enum kl_status open_trail(struct kl_audit *a, const char *path, char *err, size_t err_len)
{
    if (strlen(path) + 8 > PATH_MAX) { /* room for the number of a rotated file */
        (void)snprintf(err, err_len, "%s: the path is too long", path);
        return KL_TOO_LARGE;
    }
    a->path = kl_strdup(path);
    if (a->path == NULL) {
        (void)snprintf(err, err_len, "%s: no memory", path);
        return KL_NO_MEMORY;
    }
    if (!open_file(a)) {
        (void)snprintf(err, err_len, "%s: %s", path, strerrordesc_np(errno));
        return KL_IO;
    }
    if (start(a) != KL_OK) {
        (void)snprintf(err, err_len, "%s: no thread to write it", path);
        return KL_NO_MEMORY;
    }
    return KL_OK;
}

enum kl_status kl_audit_new(const char *path, size_t file_max, unsigned files_max,
                            struct kl_audit **out, char *err, size_t err_len)
{
    struct kl_audit *a = kl_calloc(1, sizeof *a);
    enum kl_status st = KL_OK;
    int rc;

    assert(path == NULL || (file_max > 0 && files_max <= KL_AUDIT_FILES_MAX));
    if (a == NULL) {
        (void)snprintf(err, err_len, "audit trail: no memory");
        return KL_NO_MEMORY;
    }
    a->file_max = file_max;
    a->files_max = files_max;
    a->out = KL_BUF(WRITE_LEN_MAX);
    a->fd = -1;
    kl_mailbox_init(&a->box, KL_AUDIT_QUEUE_MAX);
    rc = sem_init(&a->wake, 0, 0);
    assert(rc == 0);
    if (path != NULL) {
        st = open_trail(a, path, err, err_len);
    }
    if (st != KL_OK) {
        release(a);
        return st;
    }
    *out = a;
    return KL_OK;
}

void kl_audit_write(struct kl_audit *audit, const struct kl_audit_record *record)
{
    struct item *item = NULL;
    bool was_empty = false;

    if (audit->path == NULL) {
        return;
    }
    if (item_new(record, &item) != KL_OK || !kl_mailbox_put(&audit->box, &item->mail, &was_empty)) {
        kl_free(item);
        (void)atomic_fetch_add(&audit->lost, 1);
    } else if (was_empty) {
        (void)sem_post(&audit->wake);
    }
}

uint64_t kl_audit_lost(const struct kl_audit *audit)
{
    return atomic_load(&audit->lost);
}

void kl_audit_free(struct kl_audit *audit)
{
    if (audit == NULL) {
        return;
    }
    if (audit->path != NULL) {
        kl_mailbox_close(&audit->box);
        atomic_store(&audit->stop, true);
        (void)sem_post(&audit->wake);
        (void)pthread_join(audit->thread, NULL);
    }
    release(audit);
}
