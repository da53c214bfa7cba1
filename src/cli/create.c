/* SPDX-License-Identifier: MIT
 *
 * trapeze create: the machine that the options describe, as an instance that lasts.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "cli/cli.h"
#include "cli/instance.h"
#include "cli/machine.h"
#include "cli/nic.h"
#include "cli/share.h"
#include "config/vmx.h"

static const struct cli_option options[] = {
    CLI_WHAT_OPTIONS,
    {"vmx", 0, "FILE", "Start from the machine description in FILE; other options override it.",
     NULL},
    {"from-template", 0, "NAME",
     "Make a linked clone of this template, see 'trapeze clone'; other options change what it is.",
     NULL},
    CLI_SIZE_OPTIONS,
    CLI_SHARE_OPTION,
    CLI_LIMIT_OPTIONS,
    CLI_NIC_OPTIONS,
    CLI_SEED_OPTIONS,
    {"autostart", 0, NULL, "The daemon starts it when it runs for the first time since the host did.",
     "And then"},
    {"restart", 0, "WHEN",
     "Start it again when it has ended: 'always', 'on-failure' (it crashed, its worker died, or a "
     "bare-metal program's exit code is not 0) or 'no', the default. The daemon waits a second, then "
     "2, 4 ... 300 before each time, tries 10 times (trapeze.restartTries in the .vmx; 0: for ever) "
     "and begins anew with one that has run for 10 minutes. 'trapeze stop' ends it.",
     NULL},
    {"start", 0, NULL, "Start it, too.", NULL},
    CLI_EXPIRES_OPTION,
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze create web --image debian --memory 1G --start", "A Debian machine that stays."},
    {"trapeze create shop --from-template base --memory 2G --hostname shop --start",
     "A machine of one's own from a template, in an instant."},
    {"trapeze create lab --vmx lab.vmx", "From a description, perhaps one of VMware's."},
};

enum { VSOCK_CID = 3 }; /* the first that is free; each machine has a vsock of its own */

/* The files that go into the instance's folder. */
struct files {
    json_t *list;
    const char *store; /* "…/instances/": what is there is the daemon's to bring; NULL: nothing */
    struct error **err;
    bool good;
};

static bool is_in_store(const struct files *files, const char *path)
{
    return files->store != NULL && strncmp(path, files->store, strlen(files->store)) == 0;
}

static void replace(char **path, const char *name)
{
    free(*path);
    *path = strdup(name);
}

/* A file of the machine's becomes one of its folder; NULL: there is none. */
static void bring(struct files *files, char **path, const char *name)
{
    char full[PATH_MAX];
    if (*path == NULL || is_in_store(files, *path) || !files->good)
        return;
    if (strncmp(*path, "/proc/", 6) == 0) { /* this process's, without a name */
        snprintf(full, sizeof(full), "%s", *path);
    } else if (realpath(*path, full) == NULL) {
        files->good = error_set_errno(files->err, errno, "cannot find '%s'", *path);
        return;
    }
    json_array_append_new(files->list, json_pack("{s:s, s:s}", "source", full, "name", name));
    replace(path, name);
}

/* A file that stays where it is. */
static void point_at(struct files *files, char **path)
{
    char full[PATH_MAX];
    if (*path == NULL || (*path)[0] == '\0' || is_in_store(files, *path) || !files->good ||
        strstr(*path, "://") != NULL)
        return;
    if (realpath(*path, full) == NULL)
        files->good = error_set_errno(files->err, errno, "cannot find '%s'", *path);
    else
        replace(path, full);
}

/* A file that is written, so perhaps not there yet: where this command would write it. */
static void write_at(struct files *files, char **path)
{
    char folder[PATH_MAX], *full = NULL;
    if (*path == NULL || (*path)[0] == '/' || (*path)[0] == '\0' || !files->good)
        return;
    if (getcwd(folder, sizeof(folder)) == NULL || asprintf(&full, "%s/%s", folder, *path) < 0) {
        files->good = error_set_errno(files->err, errno, "cannot find '%s'", *path);
        return;
    }
    free(*path);
    *path = full;
}

static bool bring_all(struct cli_machine *machine, struct files *files)
{
    struct machine_config *config = &machine->config;
    bring(files, &config->kernel, "kernel");
    bring(files, &config->initrd, "initrd");
    bring(files, &config->firmware, "firmware");
    for (size_t i = 0; i < config->disk_count; i++) {
        char **path = &config->disks[i].path;
        if (machine->image_disk != NULL && strcmp(*path, machine->image_disk) == 0)
            bring(files, path, "disk.img");
        else if (strncmp(*path, "/proc/", 6) == 0)
            bring(files, path, "seed.iso");
        else
            point_at(files, path);
    }
    for (size_t i = 0; i < config->share_count; i++)
        point_at(files, &config->shares[i].path);
    for (size_t i = 0; i < config->nic_count; i++)
        write_at(files, &config->nics[i].capture);
    write_at(files, &config->serial_path);
    write_at(files, &config->dump_fdt);
    write_at(files, &config->vsock_socket);
    return files->good;
}

/* Of a file that is started from its own text, so that comments stay. */
static char *describe(const char *vmx, struct machine_config *config, const char *name,
                      struct error **err)
{
    struct text *text = vmx != NULL ? text_load(vmx, err) : text_new(name);
    size_t size;
    if (text == NULL)
        return NULL;
    if (vmx == NULL) { /* what people look for first stands first, also where it is the default */
        text_set(text, "displayName", name);
        text_set(text, "memsize", "512");
        text_set(text, "numvcpus", "1");
    }
    replace(&config->name, name);
    if (config->kernel != NULL && config->vsock_cid == 0 && !config->deterministic)
        config->vsock_cid = VSOCK_CID;
    vmx_update(text, config);
    char *bytes = text_write(text, &size);
    text_free(text);
    return bytes;
}

/* False: err. */
static bool apply_restart(const struct cli_args *args, struct machine_config *config,
                          struct error **err)
{
    static const char *const words[] = {"no", "on-failure", "always"};
    const char *text = cli_last(args, "restart");
    config->autostart |= cli_given(args, "autostart");
    for (size_t i = 0; text != NULL && i < ARRAY_SIZE(words); i++)
        if (strcmp(words[i], text) == 0) {
            config->restart = (enum machine_restart)i;
            return true;
        }
    return text == NULL || error_set(err, ERROR_USAGE, "--restart is always, on-failure or no, not "
                                                       "'%s'", text);
}

/* A new seed takes the place of the template's. */
static void drop_seed_of_template(const struct files *files, struct cli_machine *machine)
{
    struct machine_config *config = &machine->config;
    for (size_t i = 0; machine->seed >= 0 && i < config->disk_count; i++) {
        const char *path = config->disks[i].path, *slash = strrchr(path, '/');
        if (!is_in_store(files, path) || strcmp(slash + 1, "seed.iso") != 0)
            continue;
        machine_disk_clear(&config->disks[i]);
        config->disk_count--;
        memmove(&config->disks[i], &config->disks[i + 1],
                (config->disk_count - i) * sizeof(config->disks[0]));
        return;
    }
}

/* What the options describe, as the body of the call. NULL: err. */
static json_t *body_of(const struct cli_args *args, const char *name, struct files *files,
                       struct cli_machine *machine, struct error **err)
{
    char expires[24];
    struct machine_config *config = &machine->config;
    if (!cli_expires(args, expires, err) || !cli_machine_configure(args, NULL, machine, err) ||
        !apply_restart(args, config, err))
        return NULL;
    free(config->expires);
    config->expires = expires[0] != '\0' ? strdup(expires) : NULL;
    drop_seed_of_template(files, machine);
    const char *vmx = machine->base != NULL ? machine->base : cli_last(args, "vmx");
    char *text = bring_all(machine, files) ? describe(vmx, config, name, err) : NULL;
    json_t *body =
        text != NULL ? json_pack("{s:s, s:s, s:O}", "name", name, "vmx", text, "files", files->list)
                     : NULL;
    free(text);
    return body;
}

static json_t *create(const struct cli_args *args, const char *name, struct error **err)
{
    struct cli_machine machine = {.keep = true, .seed = -1};
    struct files files = {json_array(), NULL, err, true};
    json_t *body = body_of(args, name, &files, &machine, err);
    json_t *answer =
        body != NULL ? cli_api_copying(name, "POST", body, err, "/v1/instances") : NULL;
    json_decref(files.list);
    cli_machine_clear(&machine);
    return answer;
}

/* Whether nothing but the template says what the machine is: then nobody need look at it here. */
static bool is_plain(const struct cli_args *args)
{
    static const char *const others[] = {"from-template", "start", "expires", "json"};
    for (size_t i = 0; i < args->value_count; i++) {
        bool found = false;
        for (size_t k = 0; k < ARRAY_SIZE(others); k++)
            found |= strcmp(args->values[i].option->name, others[k]) == 0;
        if (!found)
            return false;
    }
    return true;
}

static json_t *body_from_template(const struct cli_args *args, const char *name,
                                  const char *template, struct files *files,
                                  struct cli_machine *machine, struct error **err)
{
    json_t *info = cli_api("GET", NULL, err, "/v1/instances/%s", template), *body = NULL;
    const char *path = json_string_value(json_object_get(info, "path"));
    char *base = NULL, *store = NULL;
    if (path == NULL || strrchr(path, '/') == NULL) {
        json_decref(info);
        return NULL;
    }
    if (asprintf(&base, "%s/%s.vmtx", path, template) > 0 &&
        asprintf(&store, "%.*s/", (int)(strrchr(path, '/') - path), path) > 0) {
        machine->base = base;
        files->store = store;
        if (json_is_true(json_object_get(info, "template"))) {
            body = body_of(args, name, files, machine, err);
        } else {
            error_set(err, ERROR_USAGE, "'%s' is no template", template);
            error_hint(err, "Make it one: trapeze template %s", template);
        }
        machine->base = NULL;
        files->store = NULL;
    }
    free(base);
    free(store);
    json_decref(info);
    return body;
}

static json_t *create_from_template(const struct cli_args *args, const char *name,
                                    const char *template, struct error **err)
{
    struct cli_machine machine = {.keep = true, .seed = -1};
    struct files files = {json_array(), NULL, err, true};
    char expires[24];
    json_t *body = NULL, *answer = NULL;
    if (cli_given(args, "image") || cli_given(args, "vmx"))
        error_set(err, ERROR_USAGE,
                  "--from-template does not go with --image and --vmx: the "
                  "template says what the machine is");
    else if (!is_plain(args))
        body = body_from_template(args, name, template, &files, &machine, err);
    else if (cli_expires(args, expires, err))
        body =
            json_pack("{s:s, s:s*}", "name", name, "expires", expires[0] != '\0' ? expires : NULL);
    if (body != NULL) {
        json_object_set_new(body, "template", json_string(template));
        answer = cli_api_copying(name, "POST", body, err, "/v1/instances");
    }
    json_decref(files.list);
    cli_machine_clear(&machine);
    return answer;
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    const char *template = cli_last(args, "from-template");
    json_t *answer = name == NULL || (template != NULL && !cli_name_check(template, err)) ? NULL
                     : template != NULL ? create_from_template(args, name, template, err)
                                        : create(args, name, err);
    if (answer != NULL && cli_given(args, "start")) {
        json_decref(answer);
        answer = cli_api("POST", NULL, err, "/v1/instances/%s/start", name);
    }
    return cli_instance_done(args, answer);
}

const struct cli_command cli_command_create = {
    .name = "create",
    .operands = "NAME",
    .summary = "Make an instance: a machine that lasts",
    .description =
        "Makes an instance NAME: a folder with a description, NAME.vmx, and what it needs. Kernel, "
        "initrd, firmware, the image's disk and the seed are copied there; other disks, shared "
        "folders and files that are written stay where they are. The .vmx can be edited while the "
        "machine does not run. The "
        "machine gets a vsock if it boots a kernel, for 'trapeze ssh', 'exec' and 'cp'. The "
        "folder (see 'trapeze info') can be copied to another host's store and started there.",
    .options = options,
    .option_count = ARRAY_SIZE(options),
    .examples = examples,
    .example_count = ARRAY_SIZE(examples),
    .run = run,
};
