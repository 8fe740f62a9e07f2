/*
 * A state machine with something in it, for fuzz targets: two vaults (one deleted), objects live,
 * deleted and with many versions, a stage, a claim, a node, a keyring, remembered requests. Ids are
 * sixteen times one byte, so that mutations of the corpus hit them.
 */
#ifndef KL_FUZZ_SEEDED_H
#define KL_FUZZ_SEEDED_H

#include "common/alloc.h"
#include "server/core/core.h"
#include "server/core/entry.h"
#include "server/core/keys.h"
#include "server/store/memory.h"

#include <stdlib.h>

enum { SEEDED_TIME_MS = 1000000 };

struct seeded {
    struct kl_kv *kv;
    struct kl_kv_snap *start;
    struct kl_kv_view over;
    struct kl_view view;
    uint64_t index;
    struct kl_results results;
};

static inline void seeded_must(bool holds)
{
    if (!holds) {
        __builtin_trap(); /* the target itself is broken, or what it checks does not hold */
    }
}

/* Applies an entry and commits it; the status of kl_core_apply. */
static inline enum kl_status seeded_apply(struct seeded *s, struct kl_bytes entry)
{
    struct kl_batch batch;
    enum kl_status st;

    kl_batch_init(&batch, KL_BATCH_MAX);
    kl_results_done(&s->results);
    st = kl_core_apply(s->index + 1, entry, &s->view, &batch, &s->results);
    seeded_must(kl_batch_status(&batch) == KL_OK);
    seeded_must(st == KL_OK || (batch.count == 0 && s->results.count == 0));
    if (st == KL_OK) {
        s->index++;
        seeded_must(kl_kv_write(s->kv, &batch, false) == KL_OK);
    }
    kl_batch_done(&batch);
    return st;
}

static inline enum kl_status seeded_command(struct seeded *s, uint64_t time_ms,
                                            struct kl_bytes command)
{
    struct kl_buf entry = KL_BUF(KL_ENTRY_MAX);
    enum kl_status st;

    seeded_must(kl_entry_begin(&entry, time_ms) == KL_OK);
    seeded_must(kl_entry_add(&entry, command) == KL_OK);
    seeded_must(kl_entry_add(&entry, command) == KL_OK); /* twice: once more through the overlay */
    seeded_must(kl_entry_end(&entry) == KL_OK);
    st = seeded_apply(s, kl_buf_bytes(&entry));
    kl_buf_wipe(&entry);
    return st;
}

static inline ProtobufCBinaryData seeded_id(uint8_t c)
{
    static uint8_t ids[256][KL_ID_LEN];

    memset(ids[c], c, KL_ID_LEN);
    return (ProtobufCBinaryData){KL_ID_LEN, ids[c]};
}

static inline void seeded_run(struct seeded *s, Kluis__Log__Command *cmd)
{
    struct kl_buf packed = KL_BUF(KL_COMMAND_MAX);
    uint8_t *p = NULL;

    seeded_must(kl_buf_grow(&packed, kluis__log__command__get_packed_size(cmd), &p) == KL_OK);
    (void)kluis__log__command__pack(cmd, p);
    seeded_must(seeded_command(s, SEEDED_TIME_MS, kl_buf_bytes(&packed)) == KL_OK);
    kl_buf_wipe(&packed);
}

static inline void seeded_vault(struct seeded *s, char *name, uint8_t id)
{
    static char subscription[] = "00000000-0000-0000-0000-000000000000";
    static char word[] = "west";
    Kluis__Store__VaultRecord vault = KLUIS__STORE__VAULT_RECORD__INIT;
    Kluis__Log__VaultCreate create = KLUIS__LOG__VAULT_CREATE__INIT;
    Kluis__Log__VaultClaim claim = KLUIS__LOG__VAULT_CLAIM__INIT;
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;

    vault.name = name;
    vault.vault_id = seeded_id(id);
    vault.subscription = subscription;
    vault.resource_group = word;
    vault.location = word;
    vault.retention_days = 7;
    vault.wrapped_key = seeded_id('w');
    create.vault = &vault;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CREATE;
    cmd.vault_create = &create;
    cmd.request_id = seeded_id(id);
    seeded_run(s, &cmd);
    claim.vault = &vault;
    claim.group = 1;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_VAULT_CLAIM;
    cmd.vault_claim = &claim;
    cmd.request_id.len = 0;
    seeded_run(s, &cmd);
}

static inline void seeded_version(struct seeded *s, char *vault, uint8_t vault_id, char *name,
                                  uint8_t object_id, uint8_t version_id)
{
    Kluis__Store__Attributes attributes = KLUIS__STORE__ATTRIBUTES__INIT;
    Kluis__Store__VersionMeta meta = KLUIS__STORE__VERSION_META__INIT;
    Kluis__Store__VersionRecord version = KLUIS__STORE__VERSION_RECORD__INIT;
    Kluis__Log__ObjectSet set = KLUIS__LOG__OBJECT_SET__INIT;
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;

    meta.version_id = seeded_id(version_id);
    meta.attributes = &attributes;
    version.meta = &meta;
    version.sealed = seeded_id('x');
    set.kind = KL_KIND_SECRET;
    set.vault = vault;
    set.vault_id = seeded_id(vault_id);
    set.name = name;
    set.object_id = seeded_id(object_id);
    set.wrapped_key = seeded_id('w');
    set.version = &version;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_SET;
    cmd.object_set = &set;
    seeded_run(s, &cmd);
}

static inline void seeded_rest(struct seeded *s, char *vault, char *other, char *gone)
{
    Kluis__Log__ObjectDelete object = KLUIS__LOG__OBJECT_DELETE__INIT;
    Kluis__Log__VaultDelete delete = KLUIS__LOG__VAULT_DELETE__INIT;
    Kluis__Log__NodeRegister node = KLUIS__LOG__NODE_REGISTER__INIT;
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;

    object.kind = KL_KIND_SECRET;
    object.vault = vault;
    object.name = gone;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_OBJECT_DELETE;
    cmd.object_delete = &object;
    seeded_run(s, &cmd);
    delete.name = other;
    cmd.op_case = KLUIS__LOG__COMMAND__OP_VAULT_DELETE;
    cmd.vault_delete = &delete;
    seeded_run(s, &cmd);
    node.node_id = 3;
    node.data_uuid = seeded_id('u');
    cmd.op_case = KLUIS__LOG__COMMAND__OP_NODE_REGISTER;
    cmd.node_register = &node;
    seeded_run(s, &cmd);
}

/* The one store of the process, made at the first call, and put back to its start at each. */
static inline struct seeded *seeded(void)
{
    static struct seeded s;
    static char vault[] = "vault";
    static char other[] = "other";
    static char live[] = "live";
    static char gone[] = "gone";
    Kluis__Store__GroupRecord group = KLUIS__STORE__GROUP_RECORD__INIT;
    Kluis__Log__GroupInit init = KLUIS__LOG__GROUP_INIT__INIT;
    Kluis__Log__Command cmd = KLUIS__LOG__COMMAND__INIT;
    static uint64_t start_index;

    if (s.kv == NULL) {
        seeded_must(kl_kv_memory_new(&s.kv) == KL_OK);
        s.over.kv = s.kv;
        s.view = kl_kv_view(&s.over);
        kl_results_init(&s.results);
        group.cluster_id = seeded_id('c');
        group.day_ms = 1000;
        init.group = &group;
        cmd.op_case = KLUIS__LOG__COMMAND__OP_GROUP_INIT;
        cmd.group_init = &init;
        seeded_run(&s, &cmd);
        seeded_vault(&s, vault, 'v');
        seeded_vault(&s, other, 'o');
        for (uint8_t i = 0; i < KL_PURGE_INLINE_MAX + 6; i++) {
            seeded_version(&s, vault, 'v', live, 'l', (uint8_t)(130 + i));
        }
        seeded_version(&s, vault, 'v', gone, 'g', '1');
        seeded_version(&s, vault, 'v', gone, 'g', '2');
        seeded_version(&s, other, 'o', live, 'k', '1');
        seeded_rest(&s, vault, other, gone);
        s.start = kl_kv_snap_new(s.kv);
        seeded_must(s.start != NULL);
        start_index = s.index;
    }
    kl_kv_memory_revert(s.kv, s.start);
    s.index = start_index;
    return &s;
}

/* Everything that is due, up to a bound: the schedule must come to an end. */
static inline enum kl_status seeded_work(struct seeded *s, uint64_t now_ms)
{
    struct kl_buf command = KL_BUF(KL_COMMAND_MAX);
    uint64_t next = 0;
    enum kl_status st = KL_OK;

    for (int i = 0; st == KL_OK; i++) {
        seeded_must(i < 100);
        st = kl_core_due(&s->view, now_ms, &command, &next);
        if (st == KL_OK) {
            st = seeded_command(s, now_ms, kl_buf_bytes(&command));
        }
        if (st == KL_OK && s->results.count == 0) {
            break; /* the applied index is beyond: only with a record that was tampered with */
        }
    }
    kl_buf_wipe(&command);
    return st;
}

#endif
