/* SPDX-License-Identifier: MIT
 *
 * From an instance's folder to a running worker. In a job's process: the worker and its network
 * processes become nobody's children when the job is done.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "client/disks.h"
#include "client/guest.h"
#include "client/network.h"
#include "client/saved.h"
#include "client/spawn.h"
#include "client/vsock.h"
#include "client/worker.h"
#include "config/vmx.h"
#include "daemon/backing.h"
#include "daemon/folder.h"
#include "daemon/machine.h"
#include "daemon/snapshot.h"

enum {
    LOG_LIMIT = 1 << 20,
    KERNEL_LINE = 1024, /* bytes: COMMAND_LINE_SIZE of Linux for riscv64 */
    MAXCPUS_WORD = 10   /* of which the machine's own "maxcpus=N " has so many */
};

/* A socket's path has little room, so it is named from the folder, wherever that lies. */
static int listen_in(const struct instance *instance, const char *name, struct error **err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", instance->fd, name);
    return client_listen(path, err);
}

static int open_in(const struct instance *instance, const char *name, int flags, struct error **err)
{
    int fd = openat(instance->fd, name, O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (fd < 0)
        error_set_errno(err, errno, "cannot open '%s/%s'", instance->path, name);
    return fd;
}

/* Standard error of the worker and of its network processes. */
static bool log_to_file(const struct instance *instance, struct error **err)
{
    struct stat status;
    int fd = open_in(instance, "worker.log", O_WRONLY | O_APPEND, err);
    if (fd < 0)
        return false;
    if (fstat(fd, &status) == 0 && status.st_size > LOG_LIMIT && ftruncate(fd, 0) != 0)
        status.st_size = 0; /* then it is longer than we like */
    dup2(fd, STDERR_FILENO);
    close(fd);
    return true;
}

static bool open_all(const struct instance *instance, const struct machine_config *config,
                     struct client_spawn *spawn, struct error **err)
{
    bool to_file = config->serial == MACHINE_SERIAL_FILE;
    spawn->console_kind = to_file ? "file" : "listen";
    spawn->report = open_in(instance, "end", O_WRONLY | O_TRUNC, err);
    if (spawn->report < 0)
        return false;
    char nvram[INSTANCE_MAX_FILE];
    snprintf(nvram, sizeof(nvram), "%s.nvram", instance->name);
    spawn->nvram = open_in(instance, nvram, O_RDWR, err);
    if (spawn->nvram < 0)
        return false;
    spawn->transcript = open_in(instance, "console.log", O_WRONLY | O_TRUNC, err);
    if (spawn->transcript < 0)
        return false;
    if (to_file) {
        spawn->console =
            open(config->serial_path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
        if (spawn->console < 0)
            return error_set_errno(err, errno, "cannot write the console to '%s'",
                                   config->serial_path);
    } else {
        spawn->console = listen_in(instance, "console.sock", err);
    }
    if (spawn->console >= 0)
        spawn->listen = listen_in(instance, "control.sock", err);
    return spawn->console >= 0 && spawn->listen >= 0 && log_to_file(instance, err);
}

/* What makes 'trapeze ssh' work, unless the command line has no room for it. A host without
 * ssh-keygen has no use for it. */
static void add_boot_words(const struct store *store, struct machine_config *config)
{
    char *words, *joined = NULL;
    if (config->vsock_cid == 0 || config->vsock_socket != NULL || config->kernel == NULL ||
        (words = guest_boot_words(store->path, NULL)) == NULL)
        return;
    const char *append = config->append != NULL ? config->append : "";
    if (strlen(append) + strlen(words) + MAXCPUS_WORD + 2 < KERNEL_LINE &&
        asprintf(&joined, "%s%s%s", append, append[0] != '\0' ? " " : "", words) > 0) {
        free(config->append);
        config->append = joined;
    }
    free(words);
}

/* Of a vsock without a path the instance's folder has the socket, and the guest reaches nobody. */
static bool start_vsock(const struct instance *instance, const struct machine_config *config,
                        struct client_vsock *vsock, struct error **err)
{
    if (!client_vsock_start(config, vsock, err))
        return false;
    if (config->vsock_cid == 0 || config->vsock_socket != NULL)
        return true;
    vsock->listen = listen_in(instance, "vsock.sock", err);
    return vsock->listen >= 0;
}

/* How the machine begins. */
struct beginning {
    struct saved_image saved; /* fd -1: it was not suspended */
    bool anyway;              /* though its disks may have changed since */
    bool incoming;            /* it comes from another daemon, which still uses its disks */
    int talk; /* of an instant clone, to the copy of the original's worker; -1: one is started */
};

static bool open_disks(const struct instance *instance, const struct machine_config *config,
                       const struct beginning *beginning, struct client_disks *disks,
                       struct error **err)
{
    return (beginning->incoming ? client_disks_open_unlocked(config, disks, err)
                                : client_disks_open(config, disks, err)) &&
           backing_check(instance, config, disks, err) &&
           (beginning->saved.fd < 0 || beginning->anyway ||
            saved_check_disks(&beginning->saved, disks->chains, disks->count, err));
}

static json_t *launch(struct instance *instance, const struct machine_config *config,
                      const struct beginning *beginning, struct error **err)
{
    struct client_network network = {0};
    struct client_disks disks = {.count = 0};
    struct client_vsock vsock = {.listen = -1, .connector = -1};
    char group[INSTANCE_GROUP];
    struct client_spawn spawn = {.console = -1,
                                 .control = -1,
                                 .listen = -1,
                                 .gdb = -1,
                                 .report = -1,
                                 .transcript = -1,
                                 .nvram = -1,
                                 .hold = instance->lock,
                                 .resume = beginning->saved.fd,
                                 .incoming = beginning->incoming,
                                 .detach = true,
                                 .group = group,
                                 .log_level = LOG_LEVEL_WARNING,
                                 .network = &network,
                                 .disks = &disks,
                                 .vsock = &vsock};
    instance_group(instance, group);
    bool good = open_all(instance, config, &spawn, err) &&
                open_disks(instance, config, beginning, &disks, err) &&
                client_network_start(config, &network, err) &&
                start_vsock(instance, config, &vsock, err);
    pid_t pid = -1;
    if (good)
        pid = beginning->talk < 0 ? client_spawn(config, &spawn, err)
                                  : client_hatch(config, &spawn, beginning->talk, err);
    if (pid > 0) {
        client_network_close_links(&network);
        client_vsock_close(&vsock);
    } else {
        client_network_stop(&network);
        client_vsock_stop(&vsock);
    }
    if (pid > 0 && beginning->incoming && !client_disks_lock_later(&disks, pid, err)) {
        kill(pid, SIGKILL);
        pid = -1;
    }
    client_disks_close(&disks);
    if (pid < 0) { /* nobody will listen there */
        unlinkat(instance->fd, "control.sock", 0);
        unlinkat(instance->fd, "console.sock", 0);
        unlinkat(instance->fd, "vsock.sock", 0);
    }
    const int fds[] = {spawn.console, spawn.listen, spawn.report, spawn.transcript, spawn.nvram};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return pid > 0 ? json_pack("{s:i}", "pid", (int)pid) : NULL;
}

/* What the machine was at when it was suspended; fd -1: it was not. */
static bool find_saved(const struct instance *instance, bool discard, struct saved_image *saved,
                       struct error **err)
{
    *saved = (struct saved_image){.fd = -1};
    unlinkat(instance->fd, "." INSTANCE_SAVED ".new", 0); /* of somebody who was killed */
    if (discard)
        unlinkat(instance->fd, INSTANCE_SAVED, 0);
    if (faccessat(instance->fd, INSTANCE_SAVED, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
        return true;
    if (client_saved_open(instance->fd, INSTANCE_SAVED, saved, NULL, err))
        return true;
    error_hint(err, "'trapeze start --discard-suspended %s' starts it anew, as after a loss of power.",
               instance->name);
    return false;
}

static bool count(const char *control, const char *verb, const char *member, size_t *count,
                  struct error **err)
{
    char *reply = client_control(control, verb, NULL, err);
    json_t *answer = reply != NULL ? json_loads(reply, 0, NULL) : NULL;
    *count = json_array_size(member != NULL ? json_object_get(answer, member) : answer);
    json_decref(answer);
    free(reply);
    return reply != NULL;
}

/* It goes on from the description: what came or went for the time being alone would be missed. */
static bool is_as_described(const struct instance *instance, const char *control, struct error **err)
{
    struct machine_config config;
    size_t disks = 0, nics = 0;
    machine_config_init(&config);
    bool good = instance_config(instance, &config, NULL, err) &&
                count(control, "disks", NULL, &disks, err) &&
                count(control, "status", "nics", &nics, err);
    if (good && (disks != config.disk_count || nics != config.nic_count)) {
        good = error_set(err, ERROR_USAGE,
                         "the machine has %zu disks and %zu NICs, and its description %zu and %zu",
                         disks, nics, config.disk_count, config.nic_count);
        error_hint(err, "What was attached or detached for the time being (--live) would not be found "
                        "again: undo that first.");
    }
    machine_config_clear(&config);
    return good;
}

json_t *machine_suspend(struct daemon *daemon, const char *name, const json_t *arguments,
                        struct error **err)
{
    const struct client_suspend how = {
        .compress = json_is_true(json_object_get(arguments, "compress"))};
    struct instance instance;
    char path[64];
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    snprintf(path, sizeof(path), "/proc/self/fd/%d/control.sock", instance.fd);
    bool good = is_as_described(&instance, path, err) &&
                client_suspend(path, instance.fd, INSTANCE_SAVED, &how, err);
    instance_close(&instance);
    return good ? json_object() : NULL;
}

/* NICs of a description by hand may have no address. */
static bool address_nics(struct machine_config *config, const char *name, struct error **err)
{
    for (size_t i = 0; i < config->nic_count; i++) {
        char mac[18];
        if (config->nics[i].mac != NULL)
            continue;
        if (!machine_make_mac(name, i, mac, err))
            return false;
        config->nics[i].mac = strdup(mac);
    }
    return true;
}

static bool lock(struct instance *instance, const struct beginning *beginning, struct error **err)
{
    if (beginning->incoming)
        return instance_lock_as_it_is(instance, err);
    if (!instance_lock(instance, err))
        return false;
    snapshot_thaw(instance);
    return true;
}

json_t *machine_launch(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err)
{
    struct instance instance;
    struct machine_config config;
    struct beginning beginning = {
        .anyway = json_is_true(json_object_get(arguments, "changed-disks")),
        .incoming = json_is_true(json_object_get(arguments, "incoming")),
        .talk = -1};
    json_t *result = NULL;
    bool discard = json_is_true(json_object_get(arguments, "discard-suspended"));
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    machine_config_init(&config);
    if (instance.is_template) {
        error_set(err, ERROR_USAGE, "'%s' is a template, which does not run", name);
        error_hint(err, "Make an instance of it: trapeze clone %s NAME", name);
    } else if (lock(&instance, &beginning, err) && instance_config(&instance, &config, NULL, err) &&
               address_nics(&config, name, err) && machine_config_check(&config, err) &&
               find_saved(&instance, discard, &beginning.saved, err)) {
        add_boot_words(&daemon->store, &config);
        /* A snapshot's disks are as they were under the new images on top of them. */
        beginning.anyway = beginning.anyway || snapshot_is_resumed(&instance, config.snapshot);
        result = launch(&instance, &config, &beginning, err);
        client_saved_close(&beginning.saved);
    }
    machine_config_clear(&config);
    instance_close(&instance);
    return result;
}

json_t *machine_hatch(const struct daemon *daemon, struct instance_draft *draft, int talk,
                      struct error **err)
{
    const struct beginning hatching = {.saved = {.fd = -1}, .talk = talk};
    struct instance *instance = &draft->instance;
    struct machine_config config;
    json_t *result = NULL;
    machine_config_init(&config);
    if (vmx_read(draft->text, &config, NULL, err)) {
        vmx_resolve(&config, instance->path);
        if (instance_lock(instance, err) && address_nics(&config, instance->name, err) &&
            machine_config_check(&config, err)) {
            add_boot_words(&daemon->store, &config);
            result = launch(instance, &config, &hatching, err);
        }
    }
    machine_config_clear(&config);
    return result;
}
