/* SPDX-License-Identifier: MIT
 *
 * POST /v1/import?name=NAME: an instance from what export gave. Its files are made in a staged
 * folder, so that whatever ends it leaves nothing (store.h). Not over TCP, as create is not: a
 * description may name networks and ports of the daemon's host.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "archive/machine.h"
#include "base/error.h"
#include "client/disks.h"
#include "client/saved.h"
#include "config/vmx.h"
#include "daemon/api.h"
#include "daemon/folder.h"
#include "daemon/nvram.h"
#include "daemon/owner.h"

static bool is_allowed(const char *name)
{
    return instance_file_check(name, NULL);
}

/* The suspended state is one of this machine, with these disks: the archive says both, by one sum,
 * and who exported it has looked. Names of files that a stranger wrote into it are replaced, too.
 */
static bool rehome(const struct text *text, const char *path, int fd, struct error **err)
{
    struct machine_config config;
    struct client_disks disks;
    size_t size;
    char *description = text_write(text, &size), *files = NULL;
    machine_config_init(&config);
    bool good = vmx_read(text, &config, NULL, err);
    if (good)
        vmx_resolve(&config, path);
    good = good && client_disks_open(&config, &disks, err);
    if (good) {
        files = saved_describe_chains(disks.chains, disks.count);
        client_disks_close(&disks);
        good = files != NULL && saved_replace(fd, SAVED_MACHINE, description, size, err) &&
               saved_replace(fd, SAVED_DISKS, files, strlen(files), err);
    }
    machine_config_clear(&config);
    free(description);
    free(files);
    return good;
}

/* Its addresses are in its memory: with others it would not be the machine that went to sleep. */
static bool take_saved(struct daemon *daemon, struct unpacked *unpacked, bool same, int folder,
                       const char *staged, struct error **err)
{
    char *path = NULL;
    if (!unpacked->has_saved)
        return true;
    if (!same) {
        json_array_append_new(
            unpacked->notes,
            json_string("it was suspended, and starts anew, as after a loss of power: "
                        "only with its own addresses (--keep-identity) it could go on"));
        return unlinkat(folder, INSTANCE_SAVED, 0) == 0 ||
               error_set_errno(err, errno, "cannot remove '%s'", INSTANCE_SAVED);
    }
    int fd = openat(folder, INSTANCE_SAVED, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || asprintf(&path, "%s/instances/%s", daemon->store.path, staged) < 0) {
        error_set_errno(err, errno, "cannot open '%s'", INSTANCE_SAVED);
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool good = rehome(unpacked->text, path, fd, err);
    close(fd);
    free(path);
    return good;
}

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    int stream = (int)json_integer_value(json_object_get(arguments, "stream"));
    unsigned keep = (unsigned)json_integer_value(json_object_get(arguments, "keep"));
    struct unpacked unpacked;
    char staged[32];
    int folder = instance_stage(&daemon->store, staged, err);
    if (folder < 0)
        return NULL;
    char owner[OWNER_MAX];
    bool good = unpack(stream, folder, is_allowed, &unpacked, err) &&
                machine_adopt(&unpacked, name, keep, is_allowed, err);
    if (good) {
        owner_name(geteuid(), owner);
        text_set(unpacked.text, "trapeze.owner", owner);
        good =
            nvram_place(folder, name, &unpacked, err) &&
            take_saved(daemon, &unpacked, (keep & MACHINE_KEEP_IDENTITY) != 0, folder, staged, err);
    }
    good = instance_finish(&daemon->store, name, unpacked.text, folder, staged, good, err);
    json_t *answer = good ? json_pack("{s:s, s:O}", "name", name, "notes", unpacked.notes) : NULL;
    unpacked_clear(&unpacked);
    return answer;
}

/* A parameter of two words, of which one has a bit. */
static bool take_choice(struct api_call *call, const char *key, const char *yes, const char *no,
                        unsigned bit, unsigned *keep)
{
    char sentence[80];
    const char *word = api_query(call, key);
    if (word != NULL && strcmp(word, yes) == 0)
        *keep |= bit;
    if (word == NULL || strcmp(word, yes) == 0 || strcmp(word, no) == 0)
        return true;
    snprintf(sentence, sizeof(sentence), "%s is '%s' or '%s'", key, no, yes);
    api_refuse(call, 400, sentence);
    return false;
}

static void run(struct api_call *call)
{
    const char *name = api_query(call, "name");
    unsigned keep = 0;
    struct error *error = NULL;
    if (!instance_name_check(name != NULL ? name : "", &error)) {
        api_fail(call, 400, error);
        return;
    }
    if (!take_choice(call, "identity", "same", "new", MACHINE_KEEP_IDENTITY, &keep) ||
        !take_choice(call, "networks", "keep", "safe", MACHINE_KEEP_NETWORKS, &keep))
        return;
    json_object_set_new(call->body, "keep", json_integer(keep));
    snprintf(call->name, sizeof(call->name), "%s", name);
    if (api_take(call))
        api_job(call, work);
}

const struct api_verb api_import = {
    .id = "import",
    .method = "POST",
    .path = "/v1/import",
    .summary = "Make an instance of what export gave",
    .query = "[{\"name\": \"name\", \"in\": \"query\", \"required\": true, \"schema\": {\"type\": "
             "\"string\"}}, {\"name\": \"identity\", \"in\": \"query\", \"description\": \"new "
             "(or none): NIC addresses and the like are made anew; same: they stay\", "
             "\"schema\": {\"type\": \"string\", \"enum\": [\"new\", \"same\"]}}, {\"name\": "
             "\"networks\", \"in\": \"query\", \"description\": \"safe (or none): NICs on "
             "networks of this host are put on NAT, and no ports are forwarded; keep: they stay\", "
             "\"schema\": {\"type\": \"string\", \"enum\": [\"safe\", \"keep\"]}}]",
    .answer = "{\"type\": \"object\", \"required\": [\"name\", \"notes\"], \"properties\": "
              "{\"name\": {\"type\": \"string\"}, \"notes\": {\"type\": \"array\", \"items\": "
              "{\"type\": \"string\"}, \"description\": \"what is not as it was\"}}}",
    .status = 201,
    .stream = API_TAKES_STREAM,
    .run = run,
};
