#include "server/core/keys.h"

#include "common/names.h"

#include <assert.h>

static struct kl_key begin(char letter)
{
    struct kl_key k = {.len = 1};

    k.bytes[0] = (uint8_t)letter;
    return k;
}

static void add_id(struct kl_key *k, struct kl_bytes id)
{
    assert(id.len == KL_ID_LEN && k->len + id.len <= sizeof k->bytes);
    memcpy(k->bytes + k->len, id.ptr, id.len);
    k->len += id.len;
}

static void add_be64(struct kl_key *k, uint64_t v)
{
    assert(k->len + 8 <= sizeof k->bytes);
    kl_put_be64(k->bytes + k->len, v);
    k->len += 8;
}

static void add_kind(struct kl_key *k, uint32_t kind)
{
    assert(kind <= KL_KIND_CERTIFICATE && k->len < sizeof k->bytes);
    k->bytes[k->len++] = (uint8_t)kind;
}

/* The zero byte stays in the key: no name is a prefix of another one's key. */
static void add_name(struct kl_key *k, const char *name)
{
    size_t n = strlen(name);

    assert(n <= KL_OBJECT_NAME_MAX && k->len + n < sizeof k->bytes);
    kl_name_fold(name, (char *)k->bytes + k->len, sizeof k->bytes - k->len);
    k->len += n + 1;
}

static struct kl_key id_key(char letter, struct kl_bytes id)
{
    struct kl_key k = begin(letter);

    add_id(&k, id);
    return k;
}

static struct kl_key name_key(char letter, const char *name)
{
    struct kl_key k = begin(letter);

    add_name(&k, name);
    return k;
}

static struct kl_key kind_key(char letter, struct kl_bytes vault_id, uint32_t kind)
{
    struct kl_key k = id_key(letter, vault_id);

    add_kind(&k, kind);
    return k;
}

struct kl_key kl_key_applied(void)
{
    return begin('a');
}

struct kl_key kl_key_group(void)
{
    return begin('i');
}

struct kl_key kl_key_request(struct kl_bytes request_id)
{
    return id_key('q', request_id);
}

struct kl_key kl_key_expiry(uint64_t expires_ms, uint64_t index)
{
    struct kl_key k = begin('e');

    add_be64(&k, expires_ms);
    add_be64(&k, index);
    return k;
}

struct kl_key kl_key_claim(const char *name)
{
    return name_key('d', name);
}

struct kl_key kl_key_pending(struct kl_bytes vault_id)
{
    return id_key('c', vault_id);
}

struct kl_key kl_key_keyring(void)
{
    return begin('k');
}

struct kl_key kl_key_node(uint64_t node_id)
{
    struct kl_key k = begin('n');

    add_be64(&k, node_id);
    return k;
}

struct kl_key kl_key_vault(const char *name)
{
    return name_key('v', name);
}

struct kl_key kl_key_vault_deleted(const char *name)
{
    return name_key('u', name);
}

struct kl_key kl_key_outbox(struct kl_bytes vault_id)
{
    return id_key('x', vault_id);
}

struct kl_key kl_key_object(struct kl_bytes vault_id, uint32_t kind, const char *name)
{
    struct kl_key k = kind_key('s', vault_id, kind);

    add_name(&k, name);
    return k;
}

struct kl_key kl_key_object_deleted(struct kl_bytes vault_id, uint32_t kind, const char *name)
{
    struct kl_key k = kind_key('t', vault_id, kind);

    add_name(&k, name);
    return k;
}

struct kl_key kl_key_version(struct kl_bytes object_id, struct kl_bytes version_id)
{
    struct kl_key k = id_key('o', object_id);

    add_id(&k, version_id);
    return k;
}

enum { POSITION_LEN = 8 + 4 };

struct kl_key kl_key_record(uint64_t index, uint32_t n)
{
    struct kl_key k = begin('w');

    add_be64(&k, index);
    kl_put_be32(k.bytes + k.len, n);
    k.len += 4;
    return k;
}

struct kl_bytes kl_key_position(const struct kl_key *record)
{
    return kl_bytes_of(record->bytes + 1, record->len - 1);
}

bool kl_key_at(struct kl_bytes position, struct kl_key *record)
{
    if (position.len != POSITION_LEN) {
        return false;
    }
    *record = kl_key_record(kl_get_be64(position.ptr), kl_get_be32(position.ptr + 8));
    return true;
}

struct kl_key kl_key_purge(uint64_t due_ms, struct kl_bytes vault_id, uint32_t kind,
                           const char *name)
{
    struct kl_key k = begin('p');

    add_be64(&k, due_ms);
    add_id(&k, vault_id);
    add_kind(&k, kind);
    add_name(&k, name);
    return k;
}

struct kl_key kl_key_garbage(uint64_t not_before_ms, struct kl_bytes vault_id,
                             struct kl_bytes object_id)
{
    static const uint8_t zeros[KL_ID_LEN];
    struct kl_key k = begin('g');

    add_be64(&k, not_before_ms);
    add_id(&k, vault_id);
    add_id(&k, object_id.len == 0 ? kl_bytes_of(zeros, sizeof zeros) : object_id);
    return k;
}

struct kl_key kl_key_staged(struct kl_bytes object_id)
{
    return id_key('r', object_id);
}

struct kl_key kl_key_prefix_end(const struct kl_key *prefix)
{
    struct kl_key k = *prefix;

    while (k.len > 0 && k.bytes[k.len - 1] == 0xff) {
        k.len--; /* cannot be raised: the byte before it is */
    }
    if (k.len > 0) {
        k.bytes[k.len - 1]++;
    }
    return k; /* empty, that is no end, for a prefix of nothing but 0xff */
}

struct kl_key kl_key_family(char letter)
{
    return begin(letter);
}

struct kl_key kl_key_objects_of(struct kl_bytes vault_id, uint32_t kind)
{
    return kind_key('s', vault_id, kind);
}

struct kl_key kl_key_objects_deleted_of(struct kl_bytes vault_id, uint32_t kind)
{
    return kind_key('t', vault_id, kind);
}

struct kl_key kl_key_versions_of(struct kl_bytes object_id)
{
    return id_key('o', object_id);
}

struct kl_key kl_key_content_of(struct kl_bytes vault_id)
{
    return id_key('s', vault_id);
}
