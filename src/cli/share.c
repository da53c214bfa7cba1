/* SPDX-License-Identifier: MIT
 *
 * See share.h. The tag is behind the last colon, so that a folder's name may have some.
 */
#include "cli/share.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "config/machine.h"

static bool add_share(const char *text, struct machine_config *config, struct error **err)
{
    size_t length = strlen(text);
    bool read_only = length > 3 && strcmp(text + length - 3, ":ro") == 0;
    char *path = strndup(text, read_only ? length - 3 : length), *colon = strrchr(path, ':');
    if (colon == NULL || colon == path || colon[1] == '\0') {
        error_set(err, ERROR_USAGE, "--share: '%s' is not FOLDER:TAG", text);
        error_hint(err, "The tag is the name that the guest mounts it by.");
        free(path);
        return false;
    }
    if (config->share_count == MACHINE_MAX_SHARES) {
        free(path);
        return error_set(err, ERROR_USAGE, "a machine has at most %d shared folders",
                         MACHINE_MAX_SHARES);
    }
    *colon = '\0';
    config->shares[config->share_count++] =
        (struct machine_share){.path = path, .tag = strdup(colon + 1), .writable = !read_only};
    return true;
}

bool cli_apply_shares(const struct cli_args *args, struct machine_config *config,
                      struct error **err)
{
    for (size_t i = 0; i < args->value_count; i++)
        if (strcmp(args->values[i].option->name, "share") == 0 &&
            !add_share(args->values[i].text, config, err))
            return false;
    return true;
}
