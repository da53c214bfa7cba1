/* SPDX-License-Identifier: MIT
 *
 * Which machines run, for commands that talk to one.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/worker.h"

char **cli_machines(struct error **err)
{
    char *folder = client_runtime_folder(err);
    if (folder == NULL)
        return NULL;
    char **paths = alloc_zeroed(1, sizeof(*paths));
    size_t count = 0;
    DIR *listing = opendir(folder);
    const struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        size_t length = strlen(entry->d_name);
        char *path = NULL;
        if (length > 5 && strcmp(entry->d_name + length - 5, ".sock") == 0 &&
            asprintf(&path, "%s/%s", folder, entry->d_name) > 0 && client_is_live(path)) {
            paths = alloc_resize(paths, count + 2, sizeof(*paths));
            paths[count++] = path;
            paths[count] = NULL;
        } else {
            free(path);
        }
    }
    if (listing != NULL)
        closedir(listing);
    free(folder);
    return paths;
}

void cli_machines_free(char **paths)
{
    for (size_t i = 0; paths != NULL && paths[i] != NULL; i++)
        free(paths[i]);
    free(paths);
}

char *cli_machine(const struct cli_args *args, struct error **err)
{
    if (args->operand_count == 1)
        return alloc_string(args->operands[0]);
    if (args->operand_count > 1) {
        error_set(err, ERROR_USAGE, "one machine at a time");
        error_hint(err, "'trapeze control' lists their sockets.");
        return NULL;
    }
    char **paths = cli_machines(err), *path = NULL;
    if (paths != NULL && paths[0] != NULL && paths[1] == NULL) {
        path = alloc_string(paths[0]);
    } else if (paths != NULL) {
        error_set(err, ERROR_USAGE,
                  paths[0] == NULL ? "no machine runs under a default socket"
                                   : "several machines run");
        error_hint(err, "Name the control socket; 'trapeze control' lists them.");
    }
    cli_machines_free(paths);
    return path;
}
