/* SPDX-License-Identifier: MIT
 *
 * See migrate_tree.h: the side that has the snapshots.
 */
#include "daemon/migrate_tree.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/pack.h"
#include "archive/tar.h"
#include "base/alloc.h"
#include "base/error.h"
#include "client/disks.h"
#include "config/vmx.h"
#include "daemon/backing.h"
#include "daemon/migrate_disks.h"
#include "daemon/nvram.h"
#include "daemon/snapshot.h"

#define NONE SIZE_MAX

/* A file of the tree, however many names it has. */
struct node {
    dev_t device;
    ino_t inode;
    int fd;         /* locked for reading, if it is an image */
    char *path;     /* real */
    char *as;       /* its name at the target, unless it stays */
    char *format;   /* as a description says; NULL: none does */
    size_t below;   /* what it lies upon, or NONE */
    bool image;     /* and it could stay */
    bool described; /* a disk of a description */
    bool kept;      /* its name is the same at the target */
    bool stays;
    uint64_t data; /* bytes */
};

/* What a description names: nodes, or NONE. */
struct named {
    size_t kernel, initrd, firmware, disks[MACHINE_MAX_DISKS];
};

struct migrate_tree {
    const struct instance *instance;
    struct snapshot_family family; /* file names as they stand there */
    struct named *named;           /* for each member */
    enum snapshot_state *states;   /* of each snapshot, as it is to be; NEW: it does not go */
    bool runs, copies;
    char folder[PATH_MAX]; /* the instance's, real */
    struct node *nodes;
    size_t count;
};

static size_t own_member(const struct migrate_tree *tree)
{
    return tree->family.all.count;
}

static bool is_member(const struct migrate_tree *tree, size_t member)
{
    return member == own_member(tree) || tree->states[member] != SNAPSHOT_NEW;
}

static bool is_written(const struct machine_disk *disk)
{
    return disk->media == 0 && !disk->read_only;
}

bool migrate_tree_is_top(const struct instance *instance, const struct machine_disk *disk)
{
    size_t length = strlen(instance->path);
    return is_written(disk) && disk->backing != NULL &&
           strncmp(disk->path, instance->path, length) == 0 &&
           strncmp(disk->path + length, "/snapshots/", 11) == 0;
}

bool migrate_tree_name_check(const char *name)
{
    size_t length = strlen(name);
    if (strncmp(name, "snapshots/", 10) != 0)
        return pack_name_is_plain(name) && instance_file_check(name, NULL) &&
               strncmp(name, PACK_PART, strlen(PACK_PART)) != 0;
    bool good = name[10] != '.' && length > 10 + 6 && length < MIGRATE_TREE_NAME &&
                strcmp(name + length - 6, ".qcow2") == 0;
    for (size_t i = 10; good && i < length; i++)
        good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]) != NULL;
    return good;
}

/* ---- what there is ---- */

/* The node of an open file, which stays open if it is a new one. NONE: err. */
static size_t find(struct migrate_tree *tree, int fd, bool image, struct error **err)
{
    char link[40], path[PATH_MAX];
    struct stat status;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        error_set(err, ERROR_USAGE, "what is no file cannot move with snapshots");
        return NONE;
    }
    path[length] = '\0';
    for (size_t i = 0; i < tree->count; i++)
        if (tree->nodes[i].device == status.st_dev && tree->nodes[i].inode == status.st_ino) {
            tree->nodes[i].image = tree->nodes[i].image && image;
            return i;
        }
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        error_set_errno(err, errno, "cannot keep '%s' open", path);
        return NONE;
    }
    uint64_t data = (uint64_t)status.st_blocks * 512, size = (uint64_t)status.st_size;
    tree->nodes = alloc_resize(tree->nodes, tree->count + 1, sizeof(*tree->nodes));
    tree->nodes[tree->count] = (struct node){.device = status.st_dev,
                                             .inode = status.st_ino,
                                             .fd = own,
                                             .path = alloc_string(path),
                                             .below = NONE,
                                             .image = image,
                                             .data = data < size ? data : size};
    return tree->count++;
}

/* `disk` by a name that can be opened. */
static bool add_chain(struct migrate_tree *tree, const struct machine_disk *disk, size_t *head,
                      struct error **err)
{
    struct machine_disk only_read = *disk;
    struct client_disks one = {.count = 1};
    only_read.read_only = true;
    if (!client_disk_open(&only_read, &one.chains[0], err))
        return false;
    size_t above = NONE;
    bool good = true;
    for (size_t i = 0; good && i < one.chains[0].count; i++) {
        size_t node = find(tree, one.chains[0].fds[i], true, err);
        good = node != NONE;
        if (i == 0)
            *head = node;
        else if (good)
            tree->nodes[above].below = node;
        above = node;
    }
    client_disks_close(&one);
    if (!good || *head == NONE)
        return good;
    struct node *node = &tree->nodes[*head];
    node->described = true;
    if (node->format == NULL && disk->format != NULL)
        node->format = alloc_string(disk->format);
    return true;
}

static bool add_file(struct migrate_tree *tree, const char *path, size_t *node, struct error **err)
{
    if (path == NULL)
        return true;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", path);
    *node = find(tree, fd, false, err);
    close(fd);
    return *node != NONE;
}

static bool is_elsewhere(const struct machine_disk *disk)
{
    return disk->path[0] != '/'; /* an empty drive, or on a server */
}

static bool add_disk(struct migrate_tree *tree, const struct machine_disk *disk, bool in_use,
                     size_t *head, struct error **err)
{
    if (is_elsewhere(disk) || (in_use && is_written(disk)))
        return true; /* of a layer that the workers fill, a snapshot has what is below */
    return add_chain(tree, disk, head, err);
}

/* As before a start: an image in the folder may name anything as what it lies upon. */
static bool check_backing(const struct migrate_tree *tree, const struct machine_config *resolved,
                          bool in_use, struct error **err)
{
    struct machine_config still = {.disk_count = 0};
    for (size_t i = 0; i < resolved->disk_count; i++)
        if (!in_use || !is_written(&resolved->disks[i]))
            still.disks[still.disk_count++] = resolved->disks[i]; /* borrowed */
    return backing_check_files(tree->instance, &still, err);
}

static bool add_member(struct migrate_tree *tree, size_t member, struct error **err)
{
    struct named *named = &tree->named[member];
    bool own = member == own_member(tree), in_use = own && tree->runs, good;
    struct machine_config resolved;
    machine_config_init(&resolved);
    *named = (struct named){.kernel = NONE, .initrd = NONE, .firmware = NONE};
    for (size_t i = 0; i < MACHINE_MAX_DISKS; i++)
        named->disks[i] = NONE;
    if (own) {
        good = instance_config(tree->instance, &resolved, NULL, err);
    } else {
        good = snapshot_config(tree->instance, &tree->family.all.list[member], &resolved, err);
        if (good)
            vmx_resolve(&resolved, tree->instance->path);
    }
    if (good && resolved.share_count > 0) {
        good = error_set(err, ERROR_USAGE, "it has the shared folder '%s', which is of this host",
                         resolved.shares[0].path);
        error_hint(err, "Take it out of its .vmx, and delete snapshots that have it.");
    }
    good = good && check_backing(tree, &resolved, in_use, err) &&
           add_file(tree, resolved.kernel, &named->kernel, err) &&
           add_file(tree, resolved.initrd, &named->initrd, err) &&
           add_file(tree, resolved.firmware, &named->firmware, err);
    for (size_t i = 0; good && i < resolved.disk_count; i++)
        good = add_disk(tree, &resolved.disks[i], in_use, &named->disks[i], err);
    machine_config_clear(&resolved);
    if (!good && !own)
        error_prefix(err, "snapshot '%s'", tree->family.all.list[member].name);
    return good;
}

/* What a crash has left half-made is judged as snapshot_mend() would. */
static void choose_states(struct migrate_tree *tree)
{
    const struct snapshots *all = &tree->family.all;
    for (size_t i = 0; i < all->count; i++) {
        const struct snapshot *snapshot = &all->list[i];
        tree->states[i] = snapshot->state;
        if (snapshot->state == SNAPSHOT_NEW && snapshot->id == all->current)
            tree->states[i] = snapshot->memory || snapshot->frozen ? SNAPSHOT_GONE : SNAPSHOT_WHOLE;
    }
}

static size_t node_by_name(const struct migrate_tree *tree, const char *name)
{
    struct stat status;
    if (fstatat(tree->instance->fd, name, &status, 0) != 0)
        return NONE;
    for (size_t i = 0; i < tree->count; i++)
        if (tree->nodes[i].device == status.st_dev && tree->nodes[i].inode == status.st_ino)
            return i;
    return NONE;
}

/* The layers that a running machine writes to lie upon frozen ones, and are nothing else. */
static bool find_tops(struct migrate_tree *tree, struct error **err)
{
    const struct machine_config *config = &tree->family.configs[own_member(tree)];
    bool good = true;
    for (size_t i = 0; good && tree->runs && i < config->disk_count; i++) {
        const struct machine_disk *disk = &config->disks[i];
        if (!is_written(disk) || disk->path[0] == '\0' || strstr(disk->path, "://") != NULL)
            continue;
        if (node_by_name(tree, disk->path) != NONE)
            good = error_set(err, ERROR_USAGE,
                             "the disk '%s', which the machine writes to, is one of its snapshots'",
                             disk->path);
        else if (disk->backing != NULL && strncmp(disk->path, "snapshots/", 10) == 0 &&
                 node_by_name(tree, disk->backing) == NONE)
            good = error_set(err, ERROR_HOST, "the disk '%s' lies upon '%s', which no snapshot has",
                             disk->path, disk->backing);
    }
    return good;
}

/* Each file stays open until it is sent. */
static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool read_all(struct migrate_tree *tree, struct error **err)
{
    size_t members = snapshot_family_size(&tree->family);
    tree->named = alloc_zeroed(members, sizeof(*tree->named));
    tree->states = alloc_zeroed(members, sizeof(*tree->states));
    if (realpath(tree->instance->path, tree->folder) == NULL)
        return error_set_errno(err, errno, "cannot find '%s'", tree->instance->path);
    raise_limit();
    choose_states(tree);
    bool good = true;
    for (size_t i = 0; good && i < members; i++)
        good = !is_member(tree, i) || add_member(tree, i, err);
    return good && find_tops(tree, err);
}

/* ---- names at the target ---- */

static bool is_taken(const struct migrate_tree *tree, const char *name)
{
    for (size_t i = 0; i < tree->count; i++)
        if (tree->nodes[i].as != NULL && strcasecmp(tree->nodes[i].as, name) == 0)
            return true;
    return false;
}

/* What it is called in the instance's folder; NULL: it is elsewhere. */
static const char *name_inside(const struct migrate_tree *tree, const struct node *node)
{
    size_t length = strlen(tree->folder);
    bool inside = strncmp(node->path, tree->folder, length) == 0 && node->path[length] == '/';
    return inside ? node->path + length + 1 : NULL;
}

static void choose_name(struct migrate_tree *tree, struct node *node)
{
    const char *inside = name_inside(tree, node), *base = strrchr(node->path, '/') + 1;
    bool layer = inside != NULL && strncmp(inside, "snapshots/", 10) == 0;
    const char *dot = strrchr(base, '.');
    const char *ending = dot != NULL && strlen(dot) < 10 && pack_name_is_plain(dot + 1) ? dot : "";
    char *name = NULL;
    if (!layer && migrate_tree_name_check(base) && !is_taken(tree, base))
        name = alloc_string(base);
    for (unsigned i = 1; name == NULL || is_taken(tree, name); i++) {
        free(name);
        if ((layer ? asprintf(&name, "snapshots/layer-%u.qcow2", i)
                   : asprintf(&name, "file-%u%s", i, ending)) < 0)
            abort();
    }
    node->as = name;
}

/* Names that can stay do, so that few images have to be told of others. */
static void choose_names(struct migrate_tree *tree)
{
    for (size_t i = 0; i < tree->count; i++) {
        struct node *node = &tree->nodes[i];
        const char *inside = name_inside(tree, node);
        node->kept = inside != NULL && migrate_tree_name_check(inside) && !is_taken(tree, inside);
        if (node->kept)
            node->as = alloc_string(inside);
    }
    for (size_t i = 0; i < tree->count; i++)
        if (tree->nodes[i].as == NULL)
            choose_name(tree, &tree->nodes[i]);
}

static const char *name_of(const struct migrate_tree *tree, size_t node)
{
    return tree->nodes[node].stays ? tree->nodes[node].path : tree->nodes[node].as;
}

bool migrate_tree_read(const struct instance *instance, bool runs, bool copies,
                       struct migrate_tree **result, struct error **err)
{
    struct snapshots all;
    *result = NULL;
    if (!snapshots_read(instance, &all, err))
        return false;
    size_t count = all.count;
    snapshots_clear(&all);
    if (count == 0)
        return true;
    struct migrate_tree *tree = alloc_zeroed(1, sizeof(*tree));
    *tree = (struct migrate_tree){.instance = instance, .runs = runs, .copies = copies};
    bool good = snapshot_family_read(instance, &tree->family, err);
    if (good && read_all(tree, err)) {
        choose_names(tree);
        *result = tree;
        return true;
    }
    migrate_tree_free(tree);
    return false;
}

void migrate_tree_free(struct migrate_tree *tree)
{
    if (tree == NULL)
        return;
    for (size_t i = 0; i < tree->count; i++) {
        close(tree->nodes[i].fd);
        free(tree->nodes[i].path);
        free(tree->nodes[i].as);
        free(tree->nodes[i].format);
    }
    free(tree->nodes);
    free(tree->named);
    free(tree->states);
    snapshot_family_clear(&tree->family);
    free(tree);
}

/* ---- what may stay ---- */

static bool could_stay(const struct migrate_tree *tree, const struct node *node)
{
    return node->image && name_inside(tree, node) == NULL;
}

static bool must_stay(const struct migrate_tree *tree)
{
    return tree->runs && !tree->copies;
}

/* Without --copy-storage a machine that runs has its own layers alone brought along. */
static bool may_travel(const struct migrate_tree *tree, const struct node *node, struct error **err)
{
    const char *inside = name_inside(tree, node);
    if (!must_stay(tree) || !node->image ||
        (inside != NULL && strncmp(inside, "snapshots/", 10) == 0))
        return true;
    if (inside != NULL)
        error_set(err, ERROR_USAGE,
                  "the disk '%s' is in the instance's folder, which the target does not see",
                  node->path);
    else
        error_set(err, ERROR_USAGE, "the target does not see the disk '%s'", node->path);
    error_hint(err, "--copy-storage brings it along.");
    return false;
}

static uint64_t size_of_memory(const struct migrate_tree *tree)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < tree->family.all.count; i++) {
        char path[64];
        struct stat status;
        snapshot_path(&tree->family.all.list[i], "memory.vmss", path);
        if (is_member(tree, i) && fstatat(tree->instance->fd, path, &status, 0) == 0)
            bytes += (uint64_t)status.st_blocks * 512;
    }
    return bytes;
}

json_t *migrate_tree_offer(const struct migrate_tree *tree, json_t *proofs, struct error **err)
{
    json_t *files = json_array();
    uint64_t data = size_of_memory(tree);
    bool good = true;
    for (size_t i = 0; good && i < tree->count; i++) {
        const struct node *node = &tree->nodes[i];
        if (!could_stay(tree, node)) {
            data += node->data;
            good = may_travel(tree, node, err);
            continue;
        }
        /* What cannot be proved is copied, if it may be. */
        good = json_object_get(proofs, node->path) != NULL ||
               migrate_disks_prove(node->path, proofs, must_stay(tree) ? err : NULL) ||
               !must_stay(tree);
        json_t *row = json_pack("{s:s, s:I}", "file", node->path, "data", (json_int_t)node->data);
        if (node->format != NULL)
            json_object_set_new(row, "format", json_string(node->format));
        good = good && row != NULL; /* a name that is no UTF-8 */
        json_array_append_new(files, row);
    }
    if (good)
        return json_pack("{s:I, s:O, s:o}", "data", (json_int_t)data, "proofs", proofs, "files",
                         files);
    json_decref(files);
    if (err != NULL && *err == NULL)
        error_set(err, ERROR_USAGE, "the name of a disk is not UTF-8");
    return NULL;
}

/* What lies upon something that does not stay goes as well; and so does what stays under an image
 * of which no description says so, as nobody would believe that image (backing.h). */
static bool settle_one(struct migrate_tree *tree, struct node *node)
{
    struct node *below = node->below != NONE ? &tree->nodes[node->below] : NULL;
    if (below == NULL)
        return false;
    if (node->stays && !below->stays) {
        node->stays = false;
        return true;
    }
    if (!node->stays && below->stays && !node->described) {
        below->stays = false;
        return true;
    }
    return false;
}

bool migrate_tree_agree(struct migrate_tree *tree, const json_t *stays, struct error **err)
{
    size_t at = 0;
    bool changed = true, good = true;
    for (size_t i = 0; i < tree->count; i++)
        if (could_stay(tree, &tree->nodes[i])) {
            const json_t *answer = json_array_get(stays, at++);
            tree->nodes[i].stays = json_is_true(answer);
        }
    if (!json_is_array(stays) || json_array_size(stays) != at)
        return error_set(err, ERROR_HOST, "its answer makes no sense");
    while (changed) {
        changed = false;
        for (size_t i = 0; i < tree->count; i++)
            changed = settle_one(tree, &tree->nodes[i]) || changed;
    }
    for (size_t i = 0; good && i < tree->count; i++)
        good = tree->nodes[i].stays || may_travel(tree, &tree->nodes[i], err);
    return good;
}

/* ---- the archive ---- */

static void rename_file(const struct migrate_tree *tree, char **path, size_t node)
{
    if (node == NONE)
        return;
    free(*path);
    *path = alloc_string(name_of(tree, node));
}

/* What is copied lies upon what its description says if nothing else could say so (backing.h). */
static void name_backing(const struct migrate_tree *tree, struct machine_disk *disk, size_t below)
{
    free(disk->backing);
    disk->backing = NULL;
    if (below == NONE)
        return;
    const struct node *node = &tree->nodes[below];
    if (node->described || node->stays || node->below == NONE)
        disk->backing = alloc_string(name_of(tree, below));
}

static void rename_disk(const struct migrate_tree *tree, struct machine_disk *disk, size_t node)
{
    if (node != NONE) {
        rename_file(tree, &disk->path, node);
        name_backing(tree, disk, tree->nodes[node].stays ? NONE : tree->nodes[node].below);
    } else if (disk->backing != NULL && strncmp(disk->path, "snapshots/", 10) == 0) {
        name_backing(tree, disk, node_by_name(tree, disk->backing));
        for (unsigned i = 1; !migrate_tree_name_check(disk->path) || is_taken(tree, disk->path);
             i++) {
            free(disk->path);
            if (asprintf(&disk->path, "snapshots/top-%u.qcow2", i) < 0)
                abort();
        }
    }
}

/* A description as it is to be at the target. NULL: err. */
static struct text *make_text(struct migrate_tree *tree, size_t member, struct error **err)
{
    const struct named *named = &tree->named[member];
    bool own = member == own_member(tree);
    struct text *text = own ? instance_read(tree->instance, err)
                            : snapshot_text(tree->instance, &tree->family.all.list[member], err);
    struct machine_config config;
    machine_config_init(&config);
    bool good = text != NULL && vmx_read(text, &config, NULL, err);
    if (good) {
        free(config.parent);
        config.parent = NULL;
        rename_file(tree, &config.kernel, named->kernel);
        rename_file(tree, &config.initrd, named->initrd);
        rename_file(tree, &config.firmware, named->firmware);
        for (size_t i = 0; i < config.disk_count; i++)
            rename_disk(tree, &config.disks[i], named->disks[i]);
        vmx_update(text, &config);
        text_remove(text, "trapeze.parent");
    }
    machine_config_clear(&config);
    if (good)
        return text;
    text_free(text);
    return NULL;
}

static bool add_text(struct pack *pack, const struct text *text, struct error **err)
{
    size_t size;
    char *bytes = text_write(text, &size);
    int fd = memfd_create("description", MFD_CLOEXEC);
    bool good = fd >= 0 && write(fd, bytes, size) == (ssize_t)size;
    free(bytes);
    if (!good) {
        error_set_errno(err, errno, "cannot keep a description");
        if (fd >= 0)
            close(fd);
    }
    return good && pack_add_part(pack, fd, err);
}

static bool add_node(const struct migrate_tree *tree, const struct node *node, struct pack *pack,
                     json_t *rows, struct error **err)
{
    int fd = fcntl(node->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", node->path);
    json_t *row = json_pack("{s:I, s:s}", "part", (json_int_t)pack_parts(pack), "as", node->as);
    if (node->below != NONE && !(node->kept && tree->nodes[node->below].kept))
        json_object_set_new(row, "below", json_string(name_of(tree, node->below)));
    json_array_append_new(rows, row);
    return pack_add_part(pack, fd, err);
}

static bool add_snapshot(struct migrate_tree *tree, size_t member, struct pack *pack, json_t *rows,
                         struct error **err)
{
    const struct snapshot *snapshot = &tree->family.all.list[member];
    bool gone = tree->states[member] == SNAPSHOT_GONE, good;
    json_t *row = json_pack("{s:i, s:i, s:s, s:I, s:b, s:I}", "id", (int)snapshot->id, "parent",
                            (int)snapshot->parent, "name", snapshot->name, "created",
                            (json_int_t)snapshot->made, "gone", (int)gone, "vmx",
                            (json_int_t)pack_parts(pack));
    json_array_append_new(rows, row);
    struct text *text = make_text(tree, member, err);
    good = text != NULL && add_text(pack, text, err);
    text_free(text);
    if (!good || gone || !snapshot->memory)
        return good;
    char path[64];
    snapshot_path(snapshot, "memory.vmss", path);
    int fd = openat(tree->instance->fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open '%s/%s'", tree->instance->path, path);
    json_object_set_new(row, "memory", json_integer((json_int_t)pack_parts(pack)));
    return pack_add_part(pack, fd, err);
}

static bool add_all(struct migrate_tree *tree, struct pack *pack, json_t *about, struct error **err)
{
    json_t *files = json_object_get(about, "files"), *rows = json_object_get(about, "snapshots");
    bool good = true;
    for (size_t i = 0; good && i < tree->count; i++)
        good = tree->nodes[i].stays || add_node(tree, &tree->nodes[i], pack, files, err);
    for (size_t i = 0; good && i < tree->family.all.count; i++)
        good = !is_member(tree, i) || add_snapshot(tree, i, pack, rows, err);
    return good;
}

static bool send_about(const struct pack *pack, int stream)
{
    char *about = pack_describe(pack);
    ssize_t size = (ssize_t)strlen(about);
    bool good = send(stream, about, (size_t)size, MSG_NOSIGNAL) == size &&
                send(stream, "\n", 1, MSG_NOSIGNAL) == 1;
    free(about);
    return good;
}

bool migrate_tree_send(struct migrate_tree *tree, int format, int stream, struct error **err)
{
    json_t *about = json_pack("{s:i, s:[], s:[]}", "current", (int)tree->family.all.current,
                              "files", "snapshots");
    struct text *text = make_text(tree, own_member(tree), err);
    struct pack *pack = text != NULL ? pack_new(tree->instance->name, text) : NULL;
    bool good = pack != NULL && tar_load(err);
    if (good) {
        pack_set_tree(pack, json_incref(about));
        good = add_all(tree, pack, about, err) &&
               (tree->runs || nvram_pack(tree->instance, pack, format, err)) &&
               (send_about(pack, stream) ||
                error_set(err, ERROR_HOST, "nobody waits for the archive any more")) &&
               pack_write(pack, stream, err);
    }
    json_decref(about);
    pack_free(pack);
    text_free(text);
    return good;
}
