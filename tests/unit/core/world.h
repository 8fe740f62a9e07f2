/*
 * A group's state machine for tests: a store, a clock that the test turns, and short ways to make
 * commands. Every apply is committed to the store like a group would.
 */
#ifndef KL_TEST_WORLD_H
#define KL_TEST_WORLD_H

#include "common/alloc.h"
#include "server/core/core.h"
#include "server/core/entry.h"
#include "server/core/keys.h"
#include "server/store/kv.h"
#include "tests/lib/test.h"

enum { DAY_MS = 1000, KEEP_MS = 5000 };

struct world {
    struct kl_kv *kv;
    struct kl_kv_view over;
    struct kl_view view;
    uint64_t index;
    uint64_t now;                      /* entry time of what comes next */
    struct kl_buf entry;               /* being put together */
    struct kl_results results;         /* of the last entry */
    Kluis__Log__CommandResult *result; /* of the last command, unpacked */
};

void world_init(struct world *w); /* memory store, time 1,000,000, no GroupInit */
void world_init_on(struct world *w, struct kl_kv *kv);
void world_done(struct world *w);  /* closes the store */
void world_group(struct world *w); /* GroupInit with days of DAY_MS */

/* 16 bytes that stand for a number; a few may be used at a time. */
struct kl_bytes id_of(unsigned n);
ProtobufCBinaryData pb_id(unsigned n);
ProtobufCBinaryData pb_text(const char *text);
uint8_t *packed_of(const ProtobufCMessage *m, size_t *len); /* kl_free */

/* One entry with one command; the result's status. w->result is the whole result. */
enum kl_status world_apply(struct world *w, const Kluis__Log__Command *cmd);
/* Bytes that claim to be a command. */
enum kl_status world_apply_bytes(struct world *w, struct kl_bytes command);
/* An entry of several: add, add, ..., commit. The i-th result by world_result(). */
void world_add(struct world *w, const Kluis__Log__Command *cmd);
void world_commit(struct world *w);
enum kl_status world_result(struct world *w, size_t i);

/* SHA-256 over the families of keys that are not about entries and requests ("a", "e", "q"). */
void world_digest(struct world *w, uint8_t out[32]);
/* Number of records of a family. */
size_t world_count(struct world *w, char family);

/* ---- commands: everything borrowed from a static ring, enough for one entry ---- */

Kluis__Store__VaultRecord *a_vault(const char *name, unsigned id);
Kluis__Store__VersionRecord *a_version(unsigned id, const char *sealed);
Kluis__Log__Command *with_request(Kluis__Log__Command *cmd, unsigned id, uint64_t expires_ms);

Kluis__Log__Command *group_init(uint64_t day_ms);
Kluis__Log__Command *node_register(uint64_t node, unsigned uuid, bool replace);
/* With a name, region and addresses; as in the configuration when it is a registration. */
Kluis__Log__Command *node_seed(uint64_t node, unsigned uuid, const char *name);
Kluis__Log__Command *node_add(uint64_t node, const char *name, const char *region, bool standby);
/* b == 0: only one node. */
Kluis__Log__Command *node_mark(uint64_t a, uint64_t b, int mark);
Kluis__Log__Command *keyring_put(uint32_t roots, uint32_t expected);
Kluis__Log__Command *vault_claim(const char *name, unsigned id, uint32_t group);
Kluis__Log__Command *vault_confirm(const char *name, unsigned id);
Kluis__Log__Command *vault_release(const char *name, unsigned id);
Kluis__Log__Command *vault_create(const char *name, unsigned id);
Kluis__Log__Command *vault_update(const char *name);
Kluis__Log__Command *vault_delete(const char *name);
Kluis__Log__Command *vault_recover(const char *name);
Kluis__Log__Command *vault_purge(const char *name);
Kluis__Log__Command *outbox_done(unsigned id);
Kluis__Log__Command *object_set(const char *vault, unsigned vault_id, const char *name,
                                unsigned object_id, unsigned version_id);
Kluis__Log__Command *object_update(const char *vault, const char *name);
Kluis__Log__Command *object_delete(const char *vault, const char *name);
Kluis__Log__Command *object_recover(const char *vault, const char *name);
Kluis__Log__Command *object_purge(const char *vault, const char *name);
Kluis__Log__Command *restore_stage(unsigned vault_id, unsigned object_id, unsigned first_version,
                                   size_t versions);
Kluis__Log__Command *restore_commit(const char *vault, unsigned vault_id, const char *name,
                                    unsigned object_id, unsigned current, uint64_t versions);
Kluis__Log__Command *purge_due(uint32_t kind, unsigned vault_id, const char *name,
                               unsigned object_id, uint64_t due_ms);
Kluis__Log__Command *collect(uint64_t not_before_ms, unsigned vault_id, unsigned object_id,
                             uint32_t budget);

/* Applies what kl_core_due() says until nothing is due; how often it said something. */
unsigned world_work(struct world *w);

#endif
