/*
 * The nodes in the directory: added or seeded from a configuration, registered with a data directory,
 * drained, promoted, removed. Who votes where follows from these records; the leaders of the groups
 * bring it about.
 */
#include "server/core/apply.h"

#include <assert.h>

static enum kl_status load_node(struct kl_txn *txn, uint64_t id, Kluis__Store__NodeRecord **out)
{
    return kl_txn_load(txn, kl_key_node(id), &kluis__store__node_record__descriptor, out);
}

static bool id_valid(uint64_t id)
{
    return id != 0 && id <= KL_NODE_ID_MAX;
}

/* The field of a node's description that is wrong, or NULL. */
static const char *check_details(const Kluis__Store__NodeRecord *d)
{
    if (kl_location_check(d->name, NULL) != KL_OK) {
        return "name";
    }
    if (kl_location_check(d->region, NULL) != KL_OK) {
        return "region";
    }
    if (d->client_address[0] == 0 || kl_text_check(d->client_address, KL_ADDRESS_MAX) != KL_OK) {
        return "client_address";
    }
    if (d->peer_address[0] == 0 || kl_text_check(d->peer_address, KL_ADDRESS_MAX) != KL_OK) {
        return "peer_address";
    }
    return NULL;
}

static void copy_details(const Kluis__Store__NodeRecord *from, Kluis__Store__NodeRecord *to)
{
    to->name = from->name;
    to->region = from->region;
    to->client_address = from->client_address;
    to->peer_address = from->peer_address;
    to->witness = from->witness;
}

enum kl_status kl_apply_node_register(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                      struct kl_outcome *out)
{
    const Kluis__Log__NodeRegister *op = cmd->node_register;
    Kluis__Store__NodeRecord fresh = KLUIS__STORE__NODE_RECORD__INIT;
    Kluis__Store__NodeRecord *node = &fresh;
    const char *field;
    bool known;
    enum kl_status st;

    if (!id_valid(op->node_id)) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "node_id");
    }
    if (!kl_is_id(op->data_uuid)) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "data_uuid");
    }
    field = op->details == NULL ? NULL : check_details(op->details);
    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    st = load_node(txn, op->node_id, &node);
    if (st != KL_OK && st != KL_NOT_FOUND) {
        return st;
    }
    if (node->removed) {
        return kl_refuse(out, KL_NOT_FOUND, "node_id");
    }
    known = node->data_uuid.len != 0;
    if (known && !kl_pb_eq(node->data_uuid, op->data_uuid)) {
        if (!op->replace) {
            return kl_refuse(out, KL_ALREADY_EXISTS, NULL);
        }
        node->generation++;
    } else if (known && (op->details == NULL || node->name[0] != 0)) {
        return KL_OK; /* all of it known already */
    }
    if (!known || !kl_pb_eq(node->data_uuid, op->data_uuid)) {
        node->registered_ms = txn->time_ms;
    }
    node->node_id = op->node_id;
    node->data_uuid = op->data_uuid;
    if (op->details != NULL && node->name[0] == 0) {
        copy_details(op->details, node);
    }
    kl_txn_store(txn, kl_key_node(op->node_id), &node->base);
    return KL_OK;
}

enum kl_status kl_apply_node_add(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                 struct kl_outcome *out)
{
    const Kluis__Store__NodeRecord *op = cmd->node_add->node;
    Kluis__Store__NodeRecord node = KLUIS__STORE__NODE_RECORD__INIT;
    Kluis__Store__NodeRecord *old = NULL;
    const char *field;
    enum kl_status st;

    if (op == NULL || !id_valid(op->node_id)) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "node_id");
    }
    field = check_details(op);
    if (field != NULL) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, field);
    }
    st = load_node(txn, op->node_id, &old);
    if (st != KL_NOT_FOUND) {
        return st == KL_OK ? kl_refuse(out, KL_ALREADY_EXISTS, "node_id") : st;
    }
    node.node_id = op->node_id;
    node.standby = op->standby;
    copy_details(op, &node);
    kl_txn_store(txn, kl_key_node(op->node_id), &node.base);
    return KL_OK;
}

static void set_mark(Kluis__Store__NodeRecord *node, Kluis__Log__NodeMark__Mark mark)
{
    switch (mark) {
    case KLUIS__LOG__NODE_MARK__MARK__DRAIN:
        node->drained = true;
        break;
    case KLUIS__LOG__NODE_MARK__MARK__UNDRAIN:
        node->drained = false;
        break;
    case KLUIS__LOG__NODE_MARK__MARK__PROMOTE:
        node->standby = false;
        break;
    default:
        assert(mark == KLUIS__LOG__NODE_MARK__MARK__REMOVE);
        node->removed = true;
        break;
    }
}

enum kl_status kl_apply_node_mark(struct kl_txn *txn, const Kluis__Log__Command *cmd,
                                  struct kl_outcome *out)
{
    const Kluis__Log__NodeMark *op = cmd->node_mark;
    Kluis__Store__NodeRecord *nodes[KL_NODES_MAX];

    if (op->mark < KLUIS__LOG__NODE_MARK__MARK__DRAIN ||
        op->mark > KLUIS__LOG__NODE_MARK__MARK__REMOVE) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "mark");
    }
    if (op->n_node_ids == 0 || op->n_node_ids > KL_NODES_MAX) {
        return kl_refuse(out, KL_INVALID_ARGUMENT, "node_id");
    }
    for (size_t i = 0; i < op->n_node_ids; i++) {
        enum kl_status st = load_node(txn, op->node_ids[i], &nodes[i]);

        if (st == KL_NOT_FOUND ||
            (st == KL_OK && nodes[i]->removed && op->mark != KLUIS__LOG__NODE_MARK__MARK__REMOVE)) {
            return kl_refuse(out, KL_NOT_FOUND, "node_id");
        }
        if (st != KL_OK) {
            return st;
        }
    }
    for (size_t i = 0; i < op->n_node_ids; i++) {
        set_mark(nodes[i], op->mark);
        kl_txn_store(txn, kl_key_node(op->node_ids[i]), &nodes[i]->base);
    }
    return KL_OK;
}
