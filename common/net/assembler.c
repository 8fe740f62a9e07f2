/* Messages out of frames. Open messages sit in a short array: a sender that is ours never has more
 * than one open, and strangers are held to streams_max. */
#include "common/net/net.h"

#include "common/alloc.h"

struct part {
    enum kl_frame_type type;
    uint16_t group;
    uint32_t stream;
    struct kl_buf body;
};

struct kl_assembler {
    size_t max;
    unsigned streams_max;
    unsigned n;
    unsigned cap;
    struct part *parts;
};

enum kl_status kl_assembler_new(size_t max, unsigned streams_max, struct kl_assembler **out)
{
    struct kl_assembler *a = kl_calloc(1, sizeof *a);

    if (a == NULL) {
        return KL_NO_MEMORY;
    }
    a->max = max;
    a->streams_max = streams_max;
    *out = a;
    return KL_OK;
}

void kl_assembler_free(struct kl_assembler *a)
{
    if (a == NULL) {
        return;
    }
    for (unsigned i = 0; i < a->n; i++) {
        kl_buf_wipe(&a->parts[i].body);
    }
    kl_free(a->parts);
    kl_free(a);
}

static struct part *find(struct kl_assembler *a, const struct kl_frame *frame)
{
    for (unsigned i = 0; i < a->n; i++) {
        struct part *p = &a->parts[i];

        if (p->stream == frame->stream && p->group == frame->group && p->type == frame->type) {
            return p;
        }
    }
    return NULL;
}

static enum kl_status open_part(struct kl_assembler *a, const struct kl_frame *frame,
                                struct part **out)
{
    if (a->n == a->streams_max) {
        return KL_EXHAUSTED;
    }
    if (a->n == a->cap) {
        unsigned cap = a->cap == 0 ? 2 : a->cap * 2;
        struct part *parts = kl_realloc(a->parts, cap * sizeof *parts);

        if (parts == NULL) {
            return KL_NO_MEMORY;
        }
        a->parts = parts;
        a->cap = cap;
    }
    *out = &a->parts[a->n++];
    **out = (struct part){frame->type, frame->group, frame->stream, KL_BUF(a->max)};
    return KL_OK;
}

enum kl_status kl_assembler_add(struct kl_assembler *a, const struct kl_frame *frame,
                                struct kl_buf *whole)
{
    bool more = (frame->flags & KL_FRAME_MORE) != 0;
    struct part *p = a->n == 0 ? NULL : find(a, frame);
    enum kl_status st;

    if (p == NULL && !more) {
        if (frame->body.len > a->max) {
            return KL_TOO_LARGE;
        }
        *whole = KL_BUF(0);
        return KL_OK;
    }
    if (p == NULL) {
        st = open_part(a, frame, &p);
        if (st != KL_OK) {
            return st;
        }
    }
    st = kl_buf_put(&p->body, frame->body.ptr, frame->body.len);
    if (st != KL_OK || more) {
        return st == KL_OK ? KL_NOT_FOUND : st;
    }
    *whole = p->body; /* moved */
    *p = a->parts[--a->n];
    return KL_OK;
}
