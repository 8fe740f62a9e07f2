#include "common/status.h"

#include <stddef.h>
#include <string.h>

enum { RETRY_NEVER = 0, RETRY_SAFE = 1 };

static const struct kl_status_info table[] = {
#define KL_STATUS(name, number, rpc, http, azure, retry, text)                                     \
    [number] = {KL_##name, #name, rpc, http, azure, RETRY_##retry == RETRY_SAFE, text},
#include "common/status.def"
#undef KL_STATUS
};

enum { TABLE_LEN = sizeof table / sizeof table[0] };

const struct kl_status_info *kl_status_info(enum kl_status status)
{
    size_t i = (size_t)status;

    if (i >= TABLE_LEN || table[i].name == NULL) {
        return &table[KL_INTERNAL];
    }
    return &table[i];
}

const char *kl_status_name(enum kl_status status)
{
    return kl_status_info(status)->name;
}

enum kl_status kl_status_from_name(const char *name)
{
    for (size_t i = 0; i < TABLE_LEN; i++) {
        if (table[i].name != NULL && strcmp(table[i].name, name) == 0) {
            return table[i].status;
        }
    }
    return KL_INTERNAL;
}
