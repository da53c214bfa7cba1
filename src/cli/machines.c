/* SPDX-License-Identifier: MIT
 *
 * Which machines run, for commands that talk to one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/cli.h"
#include "client/api.h"
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

/* The folder of the instance with this name, open; -1: there is none. */
static int open_instance(const char *name)
{
    char *store = api_store_path(NULL), *path = NULL;
    int fd = -1;
    if (store != NULL && strchr(name, '/') == NULL && name[0] != '.' && name[0] != '\0' &&
        asprintf(&path, "%s/instances/%s", store, name) > 0)
        fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    free(path);
    free(store);
    return fd;
}

bool cli_is_instance(const char *word)
{
    struct stat status;
    bool is_socket = stat(word, &status) == 0 && S_ISSOCK(status.st_mode);
    int fd = is_socket || api_is_remote() ? -1 : open_instance(word);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* The control socket of an instance, however long its path is: by the folder, which stays open. */
static char *socket_of(const char *name, struct error **err)
{
    int fd = open_instance(name);
    char *path = NULL;
    if (fd >= 0 && asprintf(&path, "/proc/self/fd/%d/control.sock", fd) > 0 && client_is_live(path))
        return path;
    error_set(err, ERROR_USAGE, "the instance '%s' is not running", name);
    error_hint(err, "'trapeze start %s' starts it.", name);
    free(path);
    if (fd >= 0)
        close(fd);
    return NULL;
}

char *cli_machine(const struct cli_args *args, struct error **err)
{
    if (args->operand_count == 1)
        return cli_is_instance(args->operands[0]) ? socket_of(args->operands[0], err)
                                                  : alloc_string(args->operands[0]);
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
