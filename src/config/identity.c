/* SPDX-License-Identifier: MIT
 *
 * See identity.h.
 */
#include "config/identity.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/bits.h"

/* VMware's way: "56 4d 01 … -…". */
static void new_uuid(struct text *text, const char *key)
{
    unsigned char bytes[16];
    char value[64] = "";
    if (text_get(text, key) == NULL || getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        size_t at = strlen(value);
        snprintf(value + at, sizeof(value) - at, "%s%02x",
                 i == 0   ? ""
                 : i == 8 ? "-"
                          : " ",
                 bytes[i]);
    }
    text_set(text, key, value);
}

static bool has_mac(const struct machine_config *config, const char *mac)
{
    for (size_t i = 0; i < config->nic_count; i++)
        if (config->nics[i].mac != NULL && strcasecmp(config->nics[i].mac, mac) == 0)
            return true;
    return false;
}

void identity_renew(struct text *text, struct machine_config *config,
                    const struct machine_config *original)
{
    static const char *const uuids[] = {"uuid.bios", "uuid.location"};
    for (size_t i = 0; i < config->nic_count; i++) {
        char **mac = &config->nics[i].mac;
        if (*mac != NULL && original != NULL && !has_mac(original, *mac))
            continue;
        free(*mac);
        *mac = alloc_zeroed(1, 18);
        if (!machine_make_mac(NULL, i, *mac, NULL)) {
            free(*mac);
            *mac = NULL; /* made up at its start */
        }
    }
    unsigned cid;
    bool shared = original == NULL || config->vsock_cid == original->vsock_cid;
    if (config->vsock_cid != 0 && shared &&
        getrandom(&cid, sizeof(cid), 0) == (ssize_t)sizeof(cid))
        config->vsock_cid = 3 + cid % (INT_MAX - 3u);
    for (size_t i = 0; i < ARRAY_SIZE(uuids); i++)
        new_uuid(text, uuids[i]);
    text_remove(text, "vc.uuid");
}
