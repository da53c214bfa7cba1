/* SPDX-License-Identifier: MIT
 *
 * See disk_replace.h.
 */
#include "client/disk_replace.h"

#include <jansson.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "client/disks.h"
#include "client/worker.h"

bool client_disk_replace(const char *control, size_t number, const char *path, bool read_only,
                         struct error **err)
{
    struct machine_config config;
    struct client_disks disks;
    char *answer = NULL;
    machine_config_init(&config);
    struct machine_disk *disk = &config.disks[config.disk_count++];
    machine_disk_init(disk);
    disk->path = alloc_string(path);
    disk->format = alloc_string("raw");
    disk->read_only = read_only;
    json_t *arguments =
        json_pack("{s:I, s:o}", "disk", (json_int_t)number, "file", json_string(path));
    char *text = arguments != NULL ? json_dumps(arguments, JSON_COMPACT) : NULL;
    /* The worker may have it locked. */
    if (client_disks_open_unlocked(&config, &disks, err)) {
        answer = client_control_fds(control, "disk-replace", text, disks.chains[0].fds,
                                    disks.chains[0].count, err);
        client_disks_close(&disks);
    }
    bool good = answer != NULL;
    machine_config_clear(&config);
    json_decref(arguments);
    free(answer);
    free(text);
    return good;
}
