/* SPDX-License-Identifier: MIT
 *
 * trapeze disk attach, detach, insert, eject, list: the disks of a running machine.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "cli/disk.h"
#include "cli/instance.h"
#include "cli/nic.h"
#include "client/disks.h"
#include "client/worker.h"

#define LOOK_NS 100000000L

/* A verb, with a disk's files, to the machine whose socket is the operand at `at`, or to the only
 * one. NULL: err. */
static json_t *ask_with(const struct cli_args *args, char *const *operands, size_t count, size_t at,
                        const char *verb, const json_t *arguments, const struct block_chain *files,
                        struct error **err)
{
    struct cli_args rest = *args;
    rest.operands = (char **)operands + at;
    rest.operand_count = count > at ? count - at : 0;
    char *path = cli_machine(&rest, err);
    char *text = arguments != NULL ? json_dumps(arguments, JSON_COMPACT) : NULL;
    char *reply =
        path != NULL ? client_control_fds(path, verb, text, files->fds, files->count, err) : NULL;
    json_t *answer = reply != NULL ? json_loads(reply, JSON_DECODE_ANY, NULL) : NULL;
    free(reply);
    free(text);
    free(path);
    return answer;
}

static json_t *ask(const struct cli_args *args, char *const *operands, size_t count, size_t at,
                   const char *verb, const json_t *arguments, struct error **err)
{
    const struct block_chain none = {.count = 0};
    return ask_with(args, operands, count, at, verb, arguments, &none, err);
}

static int usage(struct error **err, const char *text)
{
    error_set(err, ERROR_USAGE, "%s", text);
    error_hint(err, "'trapeze disk --help' explains it.");
    return CLI_USAGE;
}

/* The name that the machine tells: its working directory is another one. */
static bool full_path(const char *name, char **path, struct error **err)
{
    *path = block_name_is_uri(name) ? strdup(name) : realpath(name, NULL);
    return *path != NULL || error_set_errno(err, errno, "cannot open '%s'", name);
}

/* What 'trapeze run' takes, as a disk to open and as the arguments of the verb. */
static bool parse(const char *text, struct machine_disk *disk, json_t *arguments,
                  struct error **err)
{
    const char *at = text;
    char *part = cli_next_part(&at);
    bool good = full_path(part, &disk->path, err);
    free(part);
    while (good && (part = cli_next_part(&at)) != NULL) {
        char *equals = strchr(part, '=');
        if (equals != NULL) {
            *equals = '\0';
            json_object_set_new(arguments, part, json_string(equals + 1));
            good = machine_disk_set(disk, part, equals + 1, err);
        } else {
            json_object_set_new(arguments, part, json_true());
            good = strcmp(part, "readonly") == 0 || machine_disk_set(disk, part, "", err);
            disk->read_only = true;
        }
        free(part);
    }
    if (good)
        json_object_set_new(arguments, "file", json_string(disk->path));
    if (disk->bus == MACHINE_BUS_AUTO)
        disk->bus = MACHINE_BUS_SCSI; /* as the machine has it */
    return good && machine_disk_check(disk, err);
}

static bool persist_disk(const struct cli_args *args, const char *instance,
                         const struct machine_disk *disk, struct error **err)
{
    struct machine_config config;
    machine_config_init(&config);
    machine_disk_copy(&config.disks[config.disk_count++], disk);
    config.disks[0].slot = 0;
    bool good = cli_persist(args, instance, cli_describe_devices(&config), err);
    machine_config_clear(&config);
    return good;
}

int disk_attach(const struct cli_args *args, char *const *given, size_t count, struct error **err)
{
    if (count < 1 || count > 2)
        return usage(err, "'disk attach' takes FILE[,NAME=VALUE...], and perhaps a machine");
    char *operands[2];
    const char *instance = cli_machine_last(given, count, 1, operands);
    json_t *arguments = json_object(), *answer = NULL;
    struct machine_disk disk;
    struct block_chain files = {.count = 0};
    machine_disk_init(&disk);
    if (parse(operands[0], &disk, arguments, err) && client_disk_open(&disk, &files, err))
        answer = ask_with(args, operands, count, 1, "disk-attach", arguments, &files, err);
    block_chain_close(&files);
    json_decref(arguments);
    bool kept = answer != NULL && persist_disk(args, instance, &disk, err);
    machine_disk_clear(&disk);
    if (answer == NULL)
        return CLI_HOST_FAILURE;
    printf("Disk %lld is attached.\n",
           (long long)json_integer_value(json_object_get(answer, "disk")));
    if (json_is_true(json_object_get(answer, "rescan")))
        puts("The guest sees it when it looks through its PCI bus again, in Linux:\n"
             "    echo 1 > /sys/bus/pci/rescan");
    json_decref(answer);
    return kept ? CLI_OK : CLI_HOST_FAILURE;
}

static bool parse_index(const char *text, json_t *arguments)
{
    char *end;
    unsigned long index = strtoul(text, &end, 10);
    json_object_set_new(arguments, "disk", json_integer((json_int_t)index));
    return end != text && *end == '\0' && text[0] >= '0' && text[0] <= '9' && index < 1000;
}

/* 1: it is there, 0: it has gone, -1: err. `file`: its file, unless NULL, which the caller frees. The
 * machine is the operand at `at`. */
static int is_there(const struct cli_args *args, char *const *operands, size_t count, size_t at,
                    json_int_t index, char **file, struct error **err)
{
    json_t *list = ask(args, operands, count, at, "disks", NULL, err), *disk;
    size_t i;
    int found = list == NULL ? -1 : 0;
    json_array_foreach(list, i, disk)
    {
        const char *name = json_string_value(json_object_get(disk, "file"));
        if (json_integer_value(json_object_get(disk, "disk")) != index || found == 1)
            continue;
        found = 1;
        if (file != NULL)
            *file = strdup(name != NULL ? name : "");
    }
    json_decref(list);
    return found;
}

int disk_detach(const struct cli_args *args, char *const *given, size_t count, struct error **err)
{
    json_t *arguments = json_object(), *answer = NULL;
    char *operands[2], *file = NULL;
    const char *instance =
        count >= 1 && count <= 2 ? cli_machine_last(given, count, 1, operands) : NULL;
    if (count < 1 || count > 2 || !parse_index(operands[0], arguments)) {
        json_decref(arguments);
        return usage(err, "'disk detach' takes a disk's number, and perhaps a machine");
    }
    json_int_t index = json_integer_value(json_object_get(arguments, "disk"));
    if (is_there(args, operands, count, 1, index, &file, err) < 0) {
        json_decref(arguments);
        return CLI_HOST_FAILURE;
    }
    json_object_set_new(arguments, "force", json_boolean(cli_given(args, "force")));
    answer = ask(args, operands, count, 1, "disk-detach", arguments, err);
    json_decref(arguments);
    int there = answer != NULL ? 1 : -1;
    json_decref(answer);
    while (there > 0 && (there = is_there(args, operands, count, 1, index, NULL, err)) > 0)
        nanosleep(&(struct timespec){0, LOOK_NS}, NULL);
    bool good = there == 0 && (file == NULL || cli_persist(args, instance,
                                                           json_pack("{s:s}", "remove-disk", file),
                                                           err));
    free(file);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

static int disc(const struct cli_args *args, char *const *given, size_t count, const char *verb,
                size_t wanted, struct error **err)
{
    json_t *arguments = json_object(), *answer = NULL;
    char *operands[3] = {NULL}, *before = NULL;
    const char *instance = count >= wanted && count <= wanted + 1
                               ? cli_machine_last(given, count, wanted, operands)
                               : NULL;
    if (count < wanted || count > wanted + 1 || !parse_index(operands[0], arguments)) {
        json_decref(arguments);
        return usage(err, wanted == 2 ? "'disk insert' takes a drive's number and FILE, and "
                                        "perhaps a machine"
                                      : "'disk eject' takes a drive's number, and perhaps a "
                                        "machine");
    }
    if (is_there(args, operands, count, wanted,
                 json_integer_value(json_object_get(arguments, "disk")), &before, err) < 0) {
        json_decref(arguments);
        return CLI_HOST_FAILURE;
    }
    json_object_set_new(arguments, "force", json_boolean(cli_given(args, "force")));
    struct machine_disk disk = {.media = 1};
    struct block_chain files = {.count = 0};
    if (wanted < 2 ||
        (full_path(operands[1], &disk.path, err) && client_disk_open(&disk, &files, err))) {
        if (disk.path != NULL)
            json_object_set_new(arguments, "file", json_string(disk.path));
        answer = ask_with(args, operands, count, wanted, verb, arguments, &files, err);
    }
    bool good = answer != NULL &&
                (before == NULL ||
                 cli_persist(args, instance,
                             json_pack("{s:s, s:s}", "disc-before", before, "disc",
                                       disk.path != NULL ? disk.path : ""),
                             err));
    block_chain_close(&files);
    free(disk.path);
    free(before);
    json_decref(arguments);
    json_decref(answer);
    return good ? CLI_OK : CLI_HOST_FAILURE;
}

int disk_insert(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err)
{
    return disc(args, operands, count, "insert", 2, err);
}

int disk_eject(const struct cli_args *args, char *const *operands, size_t count, struct error **err)
{
    return disc(args, operands, count, "eject", 1, err);
}

int disk_list(const struct cli_args *args, char *const *operands, size_t count, struct error **err)
{
    json_t *disk, *list = ask(args, operands, count, 0, "disks", NULL, err);
    size_t i;
    if (list == NULL)
        return CLI_HOST_FAILURE;
    if (cli_given(args, "json")) {
        char *text = json_dumps(list, JSON_INDENT(2));
        puts(text);
        free(text);
    }
    json_array_foreach(list, i, disk)
    {
        const char *file = json_string_value(json_object_get(disk, "file"));
        if (!cli_given(args, "json"))
            printf("%2lld  %-7s %-6s %8lld MiB  %s%s\n",
                   (long long)json_integer_value(json_object_get(disk, "disk")),
                   json_string_value(json_object_get(disk, "bus")),
                   json_string_value(json_object_get(disk, "media")),
                   (long long)json_integer_value(json_object_get(disk, "size")) >> 20,
                   file[0] != '\0' ? file : "(empty)",
                   json_is_true(json_object_get(disk, "leaving")) ? "  (leaving)" : "");
    }
    json_decref(list);
    return CLI_OK;
}
