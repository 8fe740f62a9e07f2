#include "server/crypto/memory.h"

#include "common/alloc.h"
#include "server/crypto/keyring.h"

#include <assert.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* What one node locks: two keyrings (a new one is opened before the old one goes) and a seal. */
enum { LOCKED_WANTED = 256 << 10 };

static size_t whole_pages(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (n + page - 1) / page * page;
}

enum kl_status kl_key_memory_new(size_t n, void **out)
{
    size_t len = whole_pages(n);
    void *p;

    assert(n > 0);
    p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return KL_NO_MEMORY;
    }
    /* All three are best effort: old kernels and small limits refuse some of them. */
    (void)mlock(p, len);
    (void)madvise(p, len, MADV_DONTDUMP);
    (void)madvise(p, len, MADV_WIPEONFORK);
    *out = p;
    return KL_OK;
}

void kl_key_memory_free(void *p, size_t n)
{
    if (p != NULL) {
        kl_wipe(p, n);
        (void)munmap(p, whole_pages(n));
    }
}

static bool lock_limit_suffices(void)
{
    struct rlimit limit;
    void *p;
    bool ok;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_MEMLOCK, &limit);
    }
    p = mmap(NULL, LOCKED_WANTED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return false;
    }
    ok = mlock(p, LOCKED_WANTED) == 0; /* a trial tells more than the limit: root has none */
    (void)munmap(p, LOCKED_WANTED);
    return ok;
}

const char *kl_crypto_harden(void)
{
    static const char *const texts[] = {
        NULL,
        "core dumps could not be turned off",
        "other processes may trace this one",
        "core dumps could not be turned off; other processes may trace this one",
        "key memory may be swapped: raise the limit on locked memory (RLIMIT_MEMLOCK)",
        "core dumps could not be turned off; key memory may be swapped (RLIMIT_MEMLOCK)",
        "other processes may trace this one; key memory may be swapped (RLIMIT_MEMLOCK)",
        "core dumps could not be turned off; other processes may trace this one; key memory may "
        "be swapped (RLIMIT_MEMLOCK)",
    };
    unsigned lacking = 0;

    if (setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}) != 0) {
        lacking |= 1u;
    }
    /* Also stops dumps that go through a pipe, which RLIMIT_CORE does not. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
        lacking |= 2u;
    }
    if (!lock_limit_suffices()) {
        lacking |= 4u;
    }
    return texts[lacking];
}
