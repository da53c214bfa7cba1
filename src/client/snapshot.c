/* SPDX-License-Identifier: MIT
 *
 * See snapshot.h; worker/verbs_snapshot.c and verbs_clone.c are the other end.
 */
#include "client/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/frame.h"
#include "block/open/open.h"
#include "client/saved.h"
#include "client/worker.h"

struct descriptors {
    int fds[FRAME_FD_MAX];
    size_t count;
};

static void add(struct descriptors *all, int fd)
{
    all->fds[all->count++] = fd;
}

/* The new image, locked, and what it lies on again, which the machine has locked. */
static bool open_layer(const struct client_layer *layer, struct descriptors *all,
                       struct error **err)
{
    const struct block_open_options how = {.format = "qcow2"};
    struct block_file *file = block_open_file(layer->path, &how, err);
    if (file == NULL)
        return false;
    file->handed_over = true;
    add(all, file->fd);
    block_file_close(file);
    int below = open(layer->below, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (below < 0)
        return error_set_errno(err, errno, "cannot open '%s'", layer->below);
    add(all, below);
    return true;
}

static json_t *paths_of(const struct client_layer *layers, size_t count)
{
    json_t *paths = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(paths, json_string(layers[i].path));
    return paths;
}

static void close_all(const struct descriptors *all)
{
    for (size_t i = 0; i < all->count; i++)
        close(all->fds[i]);
}

static char *describe(const struct client_snapshot *how)
{
    json_t *arguments =
        json_pack("{s:o, s:b, s:b}", "disks", paths_of(how->layers, how->layer_count), "memory",
                  (int)(how->memory >= 0), "compress", (int)how->compress);
    char *text = json_dumps(arguments, JSON_COMPACT);
    json_decref(arguments);
    return text;
}

static bool ask(const char *control_path, const struct client_snapshot *how,
                const struct descriptors *all, int64_t *paused_us, struct error **err)
{
    char *arguments = describe(how);
    char *text = client_control_fds(control_path, "snapshot", arguments, all->fds, all->count, err);
    json_t *answer = text != NULL ? json_loads(text, 0, NULL) : NULL;
    *paused_us = json_integer_value(json_object_get(answer, "paused-us"));
    json_decref(answer);
    free(arguments);
    free(text);
    return text != NULL;
}

bool client_snapshot(const char *control_path, const struct client_snapshot *how, bool *swapped,
                     int64_t *paused_us, struct error **err)
{
    struct descriptors all = {.count = 0};
    int talk[2] = {-1, -1};
    bool good = true;
    *swapped = false;
    if (2 * how->layer_count + 2 > FRAME_FD_MAX)
        return error_set(err, ERROR_USAGE,
                         "a machine with more than %d disks of its own cannot have "
                         "snapshots while it runs",
                         FRAME_FD_MAX / 2 - 1);
    for (size_t i = 0; good && i < how->layer_count; i++)
        good = open_layer(&how->layers[i], &all, err);
    if (good && how->memory >= 0) {
        good = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, talk) == 0 ||
               error_set_errno(err, errno, "cannot make a socket pair");
        int file = good ? fcntl(how->memory, F_DUPFD_CLOEXEC, 0) : -1;
        if (file >= 0) {
            add(&all, file);
            add(&all, talk[1]);
        } else if (good) {
            good = error_set_errno(err, errno, "cannot hand the file over");
            close(talk[1]);
        }
    }
    *swapped = good && ask(control_path, how, &all, paused_us, err);
    close_all(&all);
    good = *swapped && (talk[0] < 0 || client_saved_wait(talk[0], how->progress, how->opaque, err));
    if (talk[0] >= 0)
        close(talk[0]);
    return good;
}

/* ---- clones ---- */

size_t client_clones_at_once(size_t disks)
{
    return 2 * disks < FRAME_FD_MAX ? FRAME_FD_MAX - 2 * disks : 0;
}

/* False: err. */
static bool ask_for_clones(const char *control_path, const struct client_clones *how,
                           const struct descriptors *all, bool *done, struct error **err)
{
    json_t *arguments = how->unwritten
                            ? json_pack("{s:b}", "unwritten", 1)
                            : json_pack("{s:o}", "disks", paths_of(how->layers, how->layer_count));
    char *text = json_dumps(arguments, JSON_COMPACT);
    char *reply = client_control_fds(control_path, "clone", text, all->fds, all->count, err);
    json_t *answer = reply != NULL ? json_loads(reply, 0, NULL) : NULL;
    *done = answer != NULL && !json_is_true(json_object_get(answer, "written"));
    json_decref(answer);
    json_decref(arguments);
    free(text);
    free(reply);
    return reply != NULL;
}

bool client_clone_running(const char *control_path, const struct client_clones *how, bool *done,
                          struct error **err)
{
    struct descriptors all = {.count = 0};
    bool good = true;
    *done = false;
    for (size_t i = 0; good && i < how->layer_count; i++)
        good = open_layer(&how->layers[i], &all, err);
    size_t ours = all.count;
    for (size_t i = 0; good && i < how->socket_count; i++)
        add(&all, how->sockets[i]);
    good = good && ask_for_clones(control_path, how, &all, done, err);
    all.count = ours;
    close_all(&all);
    return good;
}
