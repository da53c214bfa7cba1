/* SPDX-License-Identifier: MIT
 *
 * What a stranger says of the snapshots that come with a machine (daemon/migrate_tree.h), and their
 * descriptions. The parts lie in a folder as an archive leaves them: 0 and 1 are images, 2 and 3
 * descriptions, 4 memory or what the hardware remembers.
 *
 * The input: a tree in JSON, a byte 0, and the description that parts 2 and 3 and the machine have.
 * What is refused says why. Of what is taken no part is left, all that lies in the folder is named
 * as the tree may, and no description names anything else.
 */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/unpack.h"
#include "base/error.h"
#include "config/vmx.h"
#include "daemon/migrate_tree.h"

enum { PARTS = 5 };

static const char proved[] = "/proved/base.img";

static void write_file(int folder, const char *name, const void *data, size_t size)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    fuzz_check(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    close(fd);
}

static void make_parts(int folder, const char *description, size_t size)
{
    static const char image[4096] = "an image, which nobody looks into";
    for (unsigned i = 0; i < PARTS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "part-%u", i);
        if (i == 2 || i == 3)
            write_file(folder, name, description, size);
        else
            write_file(folder, name, image, sizeof(image));
    }
}

static void check_name(const char *path)
{
    fuzz_check(path == NULL || path[0] == '\0' || strcmp(path, proved) == 0 ||
               migrate_tree_name_check(path) || strncmp(path, "nbd://", 6) == 0 ||
               strncmp(path, "nbds://", 7) == 0);
}

static void check_text(const struct text *text)
{
    struct machine_config config;
    machine_config_init(&config);
    fuzz_check(vmx_read(text, &config, NULL, NULL));
    for (size_t i = 0; i < config.disk_count; i++) {
        check_name(config.disks[i].path);
        check_name(config.disks[i].backing);
    }
    const char *const files[] = {config.kernel, config.initrd, config.firmware};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        fuzz_check(files[i] == NULL ||
                   (strchr(files[i], '/') == NULL && migrate_tree_name_check(files[i])));
    fuzz_check(config.share_count == 0 && config.parent == NULL);
    machine_config_clear(&config);
}

static void check_description(int folder)
{
    static char bytes[TEXT_MAX_SIZE];
    int fd = openat(folder, "machine.vmx", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t size = fd >= 0 ? read(fd, bytes, sizeof(bytes)) : -1;
    fuzz_check(size >= 0);
    struct text *text = text_parse(bytes, (size_t)size, "machine.vmx", NULL);
    fuzz_check(text != NULL);
    check_text(text);
    text_free(text);
    close(fd);
}

/* Removes everything, too. `depth`: 0 the instance's folder, 1 that of the snapshots, 2 one. */
static void look_through(int folder, unsigned depth, bool good)
{
    DIR *listing = fdopendir(folder);
    const struct dirent *entry;
    char name[300];
    if (good && depth == 2)
        check_description(folder);
    while ((entry = readdir(listing)) != NULL) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        fuzz_check(fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0);
        snprintf(name, sizeof(name), "%s%s", depth == 1 ? "snapshots/" : "", entry->d_name);
        if (S_ISDIR(status.st_mode)) {
            fuzz_check(depth < 2);
            look_through(openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                         depth + 1, good);
        } else {
            fuzz_check(S_ISREG(status.st_mode));
            fuzz_check(!good || depth == 2 || migrate_tree_name_check(name) ||
                       (depth == 0 && strcmp(name, PACK_NVRAM) == 0));
        }
        fuzz_check(unlinkat(folder, entry->d_name, S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0) ==
                   0);
    }
    closedir(listing);
}

static json_t *rows_of_parts(void)
{
    json_t *files = json_array();
    for (unsigned i = 0; i < PARTS; i++)
        json_array_append_new(files, json_object());
    return files;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size);
    size_t length = end != NULL ? (size_t)(end - data) : size;
    json_t *tree = json_loadb((const char *)data, length, 0, NULL);
    const char *description = end != NULL ? (const char *)end + 1 : "";
    size_t rest = end != NULL ? size - length - 1 : 0;
    struct text *text = text_parse(description, rest, "vmx", NULL);
    char path[] = "/dev/shm/trapeze-fuzz-XXXXXX"; /* where fsync() costs nothing */
    if (json_is_object(tree) && text != NULL && mkdtemp(path) != NULL) {
        struct unpacked unpacked = {.name = strdup("web"),
                                    .text = text,
                                    .files = rows_of_parts(),
                                    .notes = json_array(),
                                    .tree = json_incref(tree)};
        json_t *stays = json_pack("{s:b}", proved, 1);
        struct error *error = NULL;
        int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        make_parts(folder, description, rest);
        bool good = migrate_tree_unfold(folder, "web", &unpacked, stays, NULL, NULL, &error);
        fuzz_check(good == (error == NULL));
        error_free(error);
        if (good)
            check_text(unpacked.text);
        look_through(folder, 0, good);
        fuzz_check(rmdir(path) == 0);
        json_decref(stays);
        unpacked_clear(&unpacked);
    } else {
        text_free(text);
    }
    json_decref(tree);
    return 0;
}

static size_t print_file(char *at, size_t room, uint64_t *seed, unsigned part)
{
    static const char *const names[] = {"disk.img",    "snapshots/a-1.qcow2",
                                        "elf",         "../x",
                                        "part-4",      "web.vmx",
                                        "snapshots/1", "snapshots/../x.qcow2",
                                        "/etc/passwd", "snapshots/.gone-1.qcow2",
                                        "Disk.img",    "suspended.vmss"};
    uint64_t random = fuzz_random(seed);
    size_t name = random % 4 == 0 ? (random >> 8) % 12 : part % 3;
    return (size_t)snprintf(at, room, "%s{\"part\":%u,\"as\":\"%s\"}", part > 0 ? "," : "",
                            random % 16 == 1 ? (unsigned)(random >> 20) % 7 : part, names[name]);
}

static size_t print_snapshot(char *at, size_t room, uint64_t *seed, unsigned number)
{
    static const char *const names[] = {"one", "two", "..", "a/b", "", "one"};
    uint64_t random = fuzz_random(seed);
    unsigned id = random % 8 == 0 ? (unsigned)(random >> 8) % 5 : number + 1;
    return (size_t)snprintf(
        at, room,
        "%s{\"id\":%u,\"parent\":%u,\"name\":\"%s\",\"created\":%d,\"gone\":%s,\"vmx\":%u%s}",
        number > 0 ? "," : "", id, random % 8 == 1 ? (unsigned)(random >> 12) % 5 : number,
        names[random % 8 == 2 ? (random >> 16) % 6 : number % 2], random % 32 == 3 ? -1 : 5,
        (random >> 30) % 4 == 0 ? "true" : "false",
        random % 16 == 4 ? (unsigned)(random >> 24) % 6 : number + 2,
        (random >> 40) % 8 == 0 ? ",\"memory\":4" : "");
}

size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const lines[] = {
        "scsi0:0.fileName = \"disk.img\"\n",
        "scsi0:0.fileName = \"snapshots/a-1.qcow2\"\nscsi0:0.trapeze.backing = \"disk.img\"\n",
        "scsi0:0.fileName = \"/proved/base.img\"\n",
        "scsi0:1.fileName = \"/etc/passwd\"\n",
        "scsi0:1.fileName = \"disk.img\"\nscsi0:1.trapeze.backing = \"/etc/passwd\"\n",
        "scsi0:1.fileName = \"nbd://host/x\"\n",
        "trapeze.kernel = \"elf\"\n",
        "trapeze.kernel = \"/etc/passwd\"\n",
        "trapeze.kernel = \"snapshots/a-1.qcow2\"\n",
        "trapeze.parent = \"base\"\n",
        "sharedFolder0.hostPath = \"/\"\nsharedFolder0.guestName = \"x\"\n",
        "ethernet0.connectionType = \"nat\"\n"};
    char *at = (char *)data;
    size_t size = 0, room = FUZZ_INPUT_MAX;
    uint64_t random = fuzz_random(seed);
    unsigned snapshots = 2 - (random % 8 == 0);
    size += (size_t)snprintf(at, room, "{\"current\":%u,\"files\":[",
                             random % 8 == 1 ? (unsigned)(random >> 8) % 5 : snapshots);
    /* Memory is nothing that could be taken, so its part is mostly a file. */
    for (unsigned i = 0; i < 2; i++)
        size += print_file(at + size, room - size, seed, i);
    bool nvram = random % 4 == 3;
    size +=
        (size_t)snprintf(at + size, room - size, "%s],%s\"snapshots\":[",
                         nvram ? "" : ",{\"part\":4,\"as\":\"elf\"}", nvram ? "\"nvram\":4," : "");
    for (unsigned i = 0; i < snapshots; i++)
        size += print_snapshot(at + size, room - size, seed, i);
    size += (size_t)snprintf(at + size, room - size, "]}") + 1;
    size += (size_t)snprintf(at + size, room - size, "memsize = \"32\"\n");
    for (unsigned more = (unsigned)(random >> 16) % 4; more > 0; more--)
        size += (size_t)snprintf(at + size, room - size, "%s", lines[fuzz_random(seed) % 12]);
    return size;
}
