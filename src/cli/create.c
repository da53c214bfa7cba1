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
    CLI_JSON_OPTION,
};

static const struct cli_example examples[] = {
    {"trapeze create web --image debian --memory 1G --start", "A Debian machine that stays."},
    {"trapeze create lab --vmx lab.vmx", "From a description, perhaps one of VMware's."},
};

enum { VSOCK_CID = 3 }; /* the first that is free; each machine has a vsock of its own */

/* The files that go into the instance's folder. */
struct files {
    json_t *list;
    struct error **err;
    bool good;
};

static void replace(char **path, const char *name)
{
    free(*path);
    *path = strdup(name);
}

/* A file of the machine's becomes one of its folder; NULL: there is none. */
static void bring(struct files *files, char **path, const char *name)
{
    char full[PATH_MAX];
    if (*path == NULL || !files->good)
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
    if (*path == NULL || (*path)[0] == '\0' || !files->good || strstr(*path, "://") != NULL)
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

/* Of a file that --vmx names its own text, so that comments stay. */
static char *describe(const struct cli_args *args, struct machine_config *config, const char *name,
                      struct error **err)
{
    const char *vmx = cli_last(args, "vmx");
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

static json_t *create(const struct cli_args *args, const char *name, struct error **err)
{
    struct cli_machine machine = {.keep = true};
    struct files files = {json_array(), err, true};
    json_t *answer = NULL;
    char *vmx = NULL;
    if (cli_machine_configure(args, NULL, &machine, err) &&
        apply_restart(args, &machine.config, err) && bring_all(&machine, &files) &&
        (vmx = describe(args, &machine.config, name, err)) != NULL)
        answer = cli_api(
            "POST", json_pack("{s:s, s:s, s:O}", "name", name, "vmx", vmx, "files", files.list),
            err, "/v1/instances");
    free(vmx);
    json_decref(files.list);
    cli_machine_clear(&machine);
    return answer;
}

static int run(const struct cli_args *args, struct error **err)
{
    const char *name = cli_instance(args, 0, 1, err);
    json_t *answer = name != NULL ? create(args, name, err) : NULL;
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
