/*
 * Every command: what it is, how it is used, what it takes.
 */
#include "client/cli/cli.h"

#define USES(array) array, sizeof array / sizeof array[0]

#define VAULT_HELP  "Name of the vault: 3..24 of letters, digits and -, beginning with a letter."
#define STDOUT_HELP "File to write; - for standard output. It must not be there yet."

#define READ_USES                                                                                  \
    {KL_OPT_CONSISTENCY, false, NULL},                                                             \
    {                                                                                              \
        KL_OPT_MAX_AGE, false, NULL                                                                \
    }

static const struct kl_cli_use vault_create_uses[] = {
    {KL_OPT_NAME, true, VAULT_HELP},        {KL_OPT_RETENTION_DAYS, false, NULL},
    {KL_OPT_PURGE_PROTECTION, false, NULL}, {KL_OPT_TAGS, false, NULL},
    {KL_OPT_RESOURCE_GROUP, false, NULL},   {KL_OPT_LOCATION, false, NULL},
    {KL_OPT_SUBSCRIPTION, false, NULL},
};
static const struct kl_cli_use vault_name_uses[] = {{KL_OPT_NAME, true, VAULT_HELP}};
static const struct kl_cli_use vault_show_uses[] = {{KL_OPT_NAME, true, VAULT_HELP}, READ_USES};
static const struct kl_cli_use vault_list_uses[] = {{KL_OPT_MAXRESULTS, false, NULL}, READ_USES};
static const struct kl_cli_use vault_update_uses[] = {
    {KL_OPT_NAME, true, VAULT_HELP},
    {KL_OPT_TAGS, false, "Replaces all tags; \"\" for none."},
    {KL_OPT_PURGE_PROTECTION, false, NULL},
    {KL_OPT_RETENTION_DAYS, false, "Fixed when the vault was created: another value is refused."},
};

static const struct kl_cli_use secret_set_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
    {KL_OPT_VALUE, false, NULL},
    {KL_OPT_FILE, false, "File with the value, byte for byte; - for standard input."},
    {KL_OPT_CONTENT_TYPE, false, NULL},
    {KL_OPT_TAGS, false, NULL},
    {KL_OPT_EXPIRES, false, NULL},
    {KL_OPT_NOT_BEFORE, false, NULL},
    {KL_OPT_DISABLED, false, NULL},
};
static const struct kl_cli_use secret_name_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
};
static const struct kl_cli_use secret_show_deleted_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
    READ_USES,
};
static const struct kl_cli_use secret_show_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
    {KL_OPT_VERSION, false, NULL},
    {KL_OPT_ENCODING, false,
     "How the value is shown: utf-8 (default), base64 or hex. A value that is not UTF-8 is shown "
     "as base64."},
    READ_USES,
};
static const struct kl_cli_use secret_list_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_MAXRESULTS, false, NULL},
    READ_USES,
};
static const struct kl_cli_use secret_versions_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
    {KL_OPT_MAXRESULTS, false, NULL},
    READ_USES,
};
static const struct kl_cli_use secret_attributes_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
    {KL_OPT_VERSION, false, NULL},
    {KL_OPT_ENABLED, false, NULL},
    {KL_OPT_CONTENT_TYPE, false, NULL},
    {KL_OPT_TAGS, false, "Replaces all tags; \"\" for none."},
    {KL_OPT_EXPIRES, false, "When it expires, UTC; \"\" for never."},
    {KL_OPT_NOT_BEFORE, false, "When it begins to be valid, UTC; \"\" for always."},
};
static const struct kl_cli_use secret_backup_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
    {KL_OPT_FILE, true, STDOUT_HELP},
    {KL_OPT_FORCE, false, NULL},
    READ_USES,
};
static const struct kl_cli_use secret_restore_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_FILE, true, "File with the backup; - for standard input."},
};
static const struct kl_cli_use secret_download_uses[] = {
    {KL_OPT_VAULT_NAME, true, NULL},
    {KL_OPT_NAME, true, NULL},
    {KL_OPT_FILE, true, STDOUT_HELP},
    {KL_OPT_VERSION, false, NULL},
    {KL_OPT_ENCODING, false, "utf-8 (default): the bytes as they are; or base64, or hex."},
    {KL_OPT_FORCE, false, NULL},
    READ_USES,
};

static const struct kl_cli_use cluster_status_uses[] = {
    {KL_OPT_NODE, false, "Only what this node knows; default: every node is asked."},
    {KL_OPT_WATCH, false, NULL},
};
static const struct kl_cli_use cluster_digest_uses[] = {
    {KL_OPT_GROUP, false, "Raft group; default: all that the node holds."},
    {KL_OPT_NODE, false, "Ask just this node; default: every node of the cluster."},
};
static const struct kl_cli_use cluster_transfer_uses[] = {
    {KL_OPT_GROUP, true, NULL},
    {KL_OPT_TO, false, NULL},
};
static const struct kl_cli_use cluster_confirm_uses[] = {
    {KL_OPT_STEP, false, NULL},
    {KL_OPT_NODE, false, "Speak to this node; default: any. The others follow within seconds."},
};
static const struct kl_cli_use cluster_node_uses[] = {
    {KL_OPT_NODE_ID, true, "Id of the node."},
    {KL_OPT_NO_WAIT, false, NULL},
};
static const struct kl_cli_use cluster_add_uses[] = {
    {KL_OPT_NODE_ID, true, "Id of the node: one that was never used."},
    {KL_OPT_NAME, true, "Name of the node: letters, digits and -, beginning with a letter."},
    {KL_OPT_REGION, true, NULL},
    {KL_OPT_CLIENT_ADDRESS, true, NULL},
    {KL_OPT_PEER_ADDRESS, true, NULL},
    {KL_OPT_WITNESS, false, NULL},
    {KL_OPT_STANDBY, false, NULL},
    {KL_OPT_NO_WAIT, false, NULL},
};
static const struct kl_cli_use cluster_region_uses[] = {
    {KL_OPT_REGION, true, NULL},
    {KL_OPT_NO_WAIT, false, NULL},
};
static const struct kl_cli_use cluster_undrain_uses[] = {{KL_OPT_NODE_ID, true, "Id of the node."}};
static const struct kl_cli_use cluster_undrain_region_uses[] = {{KL_OPT_REGION, true, NULL}};

const struct kl_cli_group kl_cli_groups[] = {
    {"vault", "Vaults: named containers of secrets",
     "vault create --name team --retention-days 30\nvault list\nvault delete --name team\n"},
    {"secret", "Secrets: named values with versions",
     "secret set --vault-name team --name db --file password.txt\n"
     "secret show --vault-name team --name db --query value\n"
     "secret backup --vault-name team --name db --file db.blob\n"},
    {"cluster", "The nodes and their Raft groups",
     "cluster status\ncluster digest\ncluster transfer --group 1 --to n2\n"},
};
const size_t kl_cli_groups_n = sizeof kl_cli_groups / sizeof kl_cli_groups[0];

const struct kl_cli_command kl_cli_commands[] = {
    {"vault", "create", "Create a vault",
     "The retention is fixed for good; purge protection cannot be turned off again. The name stays "
     "taken after a deletion until the vault is purged.",
     "vault create --name team\n"
     "vault create --name prod --retention-days 30 --enable-purge-protection --tags env=prod\n",
     USES(vault_create_uses), false, kl_cli_vault_create},
    {"vault", "show", "Show a vault", "", "vault show --name team\nvault show -n team -o json\n",
     USES(vault_show_uses), false, kl_cli_vault_show},
    {"vault", "list", "List the vaults", "",
     "vault list\nvault list --query '[].name' --output tsv\n", USES(vault_list_uses), false,
     kl_cli_vault_list},
    {"vault", "update", "Change tags, or turn purge protection on",
     "What is not given stays as it is.",
     "vault update --name team --tags owner=ops stage=test\n"
     "vault update --name team --enable-purge-protection\n",
     USES(vault_update_uses), false, kl_cli_vault_update},
    {"vault", "delete", "Delete a vault; it can be recovered",
     "Nothing in it can be read any more. It can be recovered with all it holds until its "
     "scheduled purge date.",
     "vault delete --name team\n", USES(vault_name_uses), false, kl_cli_vault_delete},
    {"vault", "show-deleted", "Show a deleted vault", "", "vault show-deleted --name team\n",
     USES(vault_show_uses), false, kl_cli_vault_show_deleted},
    {"vault", "list-deleted", "List the deleted vaults", "", "vault list-deleted\n",
     USES(vault_list_uses), false, kl_cli_vault_list_deleted},
    {"vault", "recover", "Bring a deleted vault back, with all it holds", "",
     "vault recover --name team\n", USES(vault_name_uses), false, kl_cli_vault_recover},
    {"vault", "purge", "Destroy a deleted vault for good",
     "Needs the right vaults/purge, which nobody has unless it was granted by name. With purge "
     "protection on nobody can: it happens by itself when the retention has passed.",
     "vault purge --name team\n", USES(vault_name_uses), false, kl_cli_vault_purge},

    {"secret", "set", "Create a secret, or a new version of one",
     "The value is any bytes, up to 25600: from --file exactly as they are (- is standard input), "
     "or text from --value. The new version becomes the current one; older ones stay readable.",
     "secret set --vault-name team --name db --value s3cret\n"
     "secret set --vault-name team --name tls --file key.pem --content-type "
     "application/x-pem-file\n"
     "openssl rand 32 | kluis secret set --vault-name team --name key --file -\n"
     "secret set --vault-name team --name db --file pw --expires 2027-01-01T00:00:00Z --tags a=1\n",
     USES(secret_set_uses), false, kl_cli_secret_set},
    {"secret", "show", "Show a secret with its value", "",
     "secret show --vault-name team --name db\n"
     "secret show --vault-name team --name db --query value\n"
     "secret show --vault-name team --name key --encoding hex --output json\n",
     USES(secret_show_uses), false, kl_cli_secret_show},
    {"secret", "list", "List the secrets of a vault, without values", "",
     "secret list --vault-name team\nsecret list --vault-name team -o json\n",
     USES(secret_list_uses), false, kl_cli_secret_list},
    {"secret", "list-versions", "List the versions of a secret, oldest first, without values", "",
     "secret list-versions --vault-name team --name db\n", USES(secret_versions_uses), false,
     kl_cli_secret_list_versions},
    {"secret", "set-attributes", "Change what is known of a version; the value stays",
     "What is not given stays as it is. Without --version the current version is changed.",
     "secret set-attributes --vault-name team --name db --enabled false\n"
     "secret set-attributes --vault-name team --name db --expires \"\" --tags owner=ops\n",
     USES(secret_attributes_uses), false, kl_cli_secret_set_attributes},
    {"secret", "delete", "Delete a secret with all its versions; it can be recovered",
     "It cannot be read any more and its name stays taken. It can be recovered until its scheduled "
     "purge date.",
     "secret delete --vault-name team --name db\n", USES(secret_name_uses), false,
     kl_cli_secret_delete},
    {"secret", "show-deleted", "Show a deleted secret, without its value", "",
     "secret show-deleted --vault-name team --name db\n", USES(secret_show_deleted_uses), false,
     kl_cli_secret_show_deleted},
    {"secret", "list-deleted", "List the deleted secrets of a vault", "",
     "secret list-deleted --vault-name team\n", USES(secret_list_uses), false,
     kl_cli_secret_list_deleted},
    {"secret", "recover", "Bring a deleted secret back, with all its versions", "",
     "secret recover --vault-name team --name db\n", USES(secret_name_uses), false,
     kl_cli_secret_recover},
    {"secret", "purge", "Destroy a deleted secret for good",
     "Needs the right secrets/purge, which nobody has unless it was granted by name. With purge "
     "protection on nobody can: it happens by itself when the retention has passed.",
     "secret purge --vault-name team --name db\n", USES(secret_name_uses), false,
     kl_cli_secret_purge},
    {"secret", "backup", "Write all versions of a secret into an encrypted file",
     "The file can only be opened by a cluster of the same geography, for the same subscription. "
     "It is written with mode 0600, and appears only when it is complete.",
     "secret backup --vault-name team --name db --file db.blob\n"
     "secret backup --vault-name team --name db --file db.blob --force\n",
     USES(secret_backup_uses), false, kl_cli_secret_backup},
    {"secret", "restore", "Bring a backed-up secret into a vault, with all its versions",
     "All versions appear at once, with their ids, dates and attributes. Refused when the name is "
     "in use in that vault, deleted ones included.",
     "secret restore --vault-name other --file db.blob\n", USES(secret_restore_uses), false,
     kl_cli_secret_restore},
    {"secret", "download", "Write a secret's value into a file, byte for byte",
     "The file is written with mode 0600, and appears only when it is complete.",
     "secret download --vault-name team --name tls --file key.pem\n"
     "secret download --vault-name team --name tls --file - | openssl pkey -noout -text\n",
     USES(secret_download_uses), false, kl_cli_secret_download},

    {"cluster", "status", "Show regions, nodes, leaders, and who is behind",
     "Every node that can be reached is asked.",
     "cluster status\ncluster status --watch 2\ncluster status --node 127.0.0.1:7001 --output "
     "json\n",
     USES(cluster_status_uses), false, kl_cli_cluster_status},
    {"cluster", "digest", "Compare the stored state of all nodes",
     "A digest covers all keys and values: nodes at the same applied index must have the same one. "
     "Exit status 1 when two differ at one index, 6 when not every node answers.",
     "cluster digest\ncluster digest --group 1\n", USES(cluster_digest_uses), false,
     kl_cli_cluster_digest},
    {"cluster", "move-leader", "Hand the leadership of a group over",
     "The same as transfer. Needs the right cluster/admin.",
     "cluster move-leader --group 1 --to n2\n", USES(cluster_transfer_uses), false,
     kl_cli_cluster_transfer},
    {"cluster", "transfer", "Hand the leadership of a group over", "Needs the right cluster/admin.",
     "cluster transfer --group 1\n"
     "cluster transfer --group 1 --to n2\n",
     USES(cluster_transfer_uses), false, kl_cli_cluster_transfer},
    {"cluster", "replace-node", "Take a node with a new data directory into the cluster",
     "For a node whose disk was lost: move its data directory away, run kluisd --join, start it, "
     "then this. It waits up to 30 s for the node to come; it is filled from the others while "
     "they serve. Needs the right cluster/admin.",
     "cluster replace-node --node-id 3\n", USES(cluster_node_uses), false,
     kl_cli_cluster_replace_node},
    {"cluster", "add-node", "Add a node to the running cluster",
     "Make its certificate, its configuration (with itself and the others) and its data directory "
     "with kluisd --join, start it, then this. It is filled from the others while they serve, and "
     "votes once it has caught up; what is still to come is shown. Its region must be one of the "
     "configuration. Put it into the configuration of the others when they are restarted. Needs "
     "the "
     "right cluster/admin.",
     "cluster add-node --node-id 4 --name n4 --region west --client-address n4:7400 --peer-address "
     "n4:7401\n",
     USES(cluster_add_uses), false, kl_cli_cluster_add_node},
    {"cluster", "promote", "Let a node vote that was added with --standby",
     "Needs the right cluster/admin.", "cluster promote --node-id 4\n", USES(cluster_node_uses),
     false, kl_cli_cluster_promote},
    {"cluster", "remove-node", "Take a node out of the cluster for good",
     "Its leadership is handed over, it leaves its groups, then its certificate is refused and its "
     "id is not used again. Refused when a group would not keep a majority that is connected and "
     "caught up. Needs the right cluster/admin.",
     "cluster remove-node --node-id 4\n", USES(cluster_node_uses), false,
     kl_cli_cluster_remove_node},
    {"cluster", "drain-node", "Move all leadership away from a node",
     "For maintenance: no call fails. It leads nothing, while another node can, until it is "
     "undrained. Ends when it leads nothing. Needs the right cluster/admin.",
     "cluster drain-node --node-id 1\n", USES(cluster_node_uses), false, kl_cli_cluster_drain},
    {"cluster", "undrain-node", "Let a drained node lead again", "Needs the right cluster/admin.",
     "cluster undrain-node --node-id 1\n", USES(cluster_undrain_uses), false,
     kl_cli_cluster_undrain},
    {"cluster", "drain-region", "Move all leadership out of a region",
     "A planned failover: no call fails. Needs the right cluster/admin.",
     "cluster drain-region --region west\n", USES(cluster_region_uses), false,
     kl_cli_cluster_drain},
    {"cluster", "undrain-region", "Let the nodes of a drained region lead again",
     "Needs the right cluster/admin.", "cluster undrain-region --region west\n",
     USES(cluster_undrain_region_uses), false, kl_cli_cluster_undrain},
    {"cluster", "confirm-time", "Say that the nodes' clocks are right, so that purges go on",
     "Scheduled purges are held while the clocks differ from the cluster's time and nothing "
     "explains it: they jumped, or every node was down and the clocks are more than three days "
     "ahead of the last log entry. Look at cluster status first. The cluster's time goes on as it "
     "is, so much behind the clocks or ahead of them, and no purge is early. With --step it takes "
     "over what the clocks say, if they are ahead: dates are right again, but what was deleted "
     "shortly before may be due at once. "
     "Needs the right cluster/admin.",
     "cluster confirm-time\n", USES(cluster_confirm_uses), false, kl_cli_cluster_confirm_time},

    {"", "health", "Ask every endpoint whether it serves",
     "Exit status 0 when all do, 6 otherwise.", "health\nhealth --endpoint n1:7000,n2:7000\n", NULL,
     0, false, kl_cli_health},
    {"", "completion", "Print the completion for bash", "Put it where bash finds it.",
     "completion bash > /etc/bash_completion.d/kluis\n", NULL, 0, true, kl_cli_completion},
    {"", "version", "Print the version", "", "version\n", NULL, 0, true, kl_cli_version},
};
const size_t kl_cli_commands_n = sizeof kl_cli_commands / sizeof kl_cli_commands[0];
