/* SPDX-License-Identifier: MIT
 *
 * See machine.h.
 */
#include "archive/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "archive/tar.h"
#include "base/alloc.h"
#include "base/error.h"
#include "block/open/open.h"
#include "config/identity.h"
#include "config/vmx.h"

enum { NOTE_MAX = 300 /* bytes */ };

/* ---- into an archive ---- */

struct packing {
    struct pack *pack;
    const char *description;      /* "web.vmx" */
    struct machine_config config; /* as the archive has it */
    struct machine_config found;  /* with names that can be opened */
    const struct machine_opener *opener;
};

static void note(struct packing *p, const char *format, const char *what)
{
    char text[NOTE_MAX];
    snprintf(text, sizeof(text), format, what);
    pack_note(p->pack, text);
}

static bool is_free(const struct packing *p, const char *name)
{
    return pack_name_is_plain(name) && !pack_name_is_reserved(name) &&
           strcasecmp(name, p->description) != 0 && !pack_has(p->pack, name);
}

/* The name in the archive: that of the description if it is one of the machine's folder, otherwise
 * "STEM", "STEM-2" ... Caller frees. */
static char *choose_name(const struct packing *p, const char *now, const char *stem,
                         const char *ending)
{
    char *name = alloc_string(now);
    for (unsigned i = 1; !is_free(p, name); i++) {
        char number[16] = "";
        if (i > 1)
            snprintf(number, sizeof(number), "-%u", i);
        free(name);
        if (asprintf(&name, "%s%s%s", stem, number, ending) < 0)
            abort();
    }
    return name;
}

static bool pack_file(struct packing *p, char **path, const char *found, const char *stem,
                      const char *ending, struct error **err)
{
    if (*path == NULL)
        return true;
    char *name = choose_name(p, *path, stem, ending);
    int fd = open(found, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    bool good = fd >= 0 ? pack_add_file(p->pack, name, fd, err)
                        : error_set_errno(err, errno, "cannot open '%s'", found);
    free(*path);
    *path = name;
    return good;
}

static bool pack_opened(struct packing *p, const char *path, const char *name, struct error **err)
{
    struct block_image *image = p->opener->open(p->opener, path, err);
    return image != NULL && pack_add_disk(p->pack, name, image, image->format->name, err);
}

static bool pack_chain(struct packing *p, const struct machine_disk *found, const char *name,
                       struct error **err)
{
    const struct block_open_options options = {.format = found->format, .read_only = true};
    struct block_chain chain;
    return block_open_chain(found->path, &options, &chain, err) &&
           pack_add_chain(p->pack, name, &chain, found->format, err);
}

static bool pack_disk(struct packing *p, struct machine_disk *disk,
                      const struct machine_disk *found, struct error **err)
{
    if (disk->path[0] == '\0') /* an empty drive */
        return true;
    if (block_name_is_uri(found->path)) {
        note(p, "disk '%.200s' is on a server and stays there", found->path);
        return true;
    }
    if (disk->media != 0) /* a disc has no format but its own */
        return pack_file(p, &disk->path, found->path, "disc", ".iso", err);
    char *name = p->opener != NULL ? choose_name(p, "", "disk", ".qcow2")
                                   : choose_name(p, disk->path, "disk", ".img");
    bool good =
        p->opener != NULL ? pack_opened(p, disk->path, name, err) : pack_chain(p, found, name, err);
    free(disk->path);
    disk->path = name;
    return good;
}

static bool pack_all(struct packing *p, struct error **err)
{
    struct machine_config *config = &p->config, *found = &p->found;
    bool good = pack_file(p, &config->kernel, found->kernel, "kernel", "", err) &&
                pack_file(p, &config->initrd, found->initrd, "initrd", "", err) &&
                pack_file(p, &config->firmware, found->firmware, "firmware", "", err);
    for (size_t i = 0; i < config->disk_count && good; i++)
        good = pack_disk(p, &config->disks[i], &found->disks[i], err);
    for (size_t i = 0; i < config->share_count && good; i++)
        note(p, "the shared folder '%.200s' is not in the archive", found->shares[i].path);
    return good;
}

/* Nothing of it lies upon other machines' files. */
static void stand_alone(struct machine_config *config)
{
    free(config->parent);
    config->parent = NULL;
    config->snapshot = 0;
    for (size_t i = 0; i < config->disk_count; i++) {
        free(config->disks[i].backing);
        config->disks[i].backing = NULL;
    }
}

struct pack *machine_pack(const char *name, const char *folder, struct text *text,
                          const struct machine_opener *opener, struct error **err)
{
    struct packing p = {.pack = pack_new(name, text), .opener = opener};
    char description[PACK_MAX_NAME + 8];
    snprintf(description, sizeof(description), "%.*s.vmx", PACK_MAX_NAME, name);
    p.description = description;
    machine_config_init(&p.config);
    machine_config_init(&p.found);
    bool good = tar_load(err) && vmx_read(text, &p.config, NULL, err) &&
                vmx_read(text, &p.found, NULL, err);
    if (good) {
        vmx_resolve(&p.found, folder);
        good = pack_all(&p, err);
    }
    if (good) {
        stand_alone(&p.config);
        vmx_update(text, &p.config);
    } else {
        pack_free(p.pack);
        p.pack = NULL;
    }
    machine_config_clear(&p.config);
    machine_config_clear(&p.found);
    return p.pack;
}

/* ---- out of one ---- */

/* Its row of the manifest; NULL: there is none. */
static const json_t *find_member(const struct unpacked *unpacked, const char *path)
{
    for (size_t i = 0; i < json_array_size(unpacked->files); i++) {
        const json_t *row = json_array_get(unpacked->files, i);
        if (strcmp(json_string_value(json_object_get(row, "name")), path) == 0 &&
            json_object_get(row, "role") == NULL)
            return row;
    }
    return NULL;
}

/* Takes a file name away; notes it by what it is for. */
static void drop(struct unpacked *unpacked, char **path, const char *what)
{
    char text[NOTE_MAX];
    snprintf(text, sizeof(text), "%s '%.200s' is left out: it is not in the archive", what, *path);
    json_array_append_new(unpacked->notes, json_string_nocheck(text));
    free(*path);
    *path = NULL;
}

static void keep_member(struct unpacked *unpacked, char **path, const char *what)
{
    if (*path != NULL && find_member(unpacked, *path) == NULL)
        drop(unpacked, path, what);
}

/* A file that the machine makes: in its own folder, and none that means something there. What the
 * guest prints would else become its description. */
static void keep_inside(struct unpacked *unpacked, char **path, bool (*allowed)(const char *name),
                        const char *what)
{
    if (*path != NULL && (!pack_name_is_plain(*path) || find_member(unpacked, *path) != NULL ||
                          pack_name_is_reserved(*path) ||
                          (allowed != NULL && !allowed(*path))))
        drop(unpacked, path, what);
}

/* As what unpack() has made. A plain file is a stranger's bytes: one that was opened as qcow2
 * because the description says so could lie on any file of this host. */
static void adopt_format(const struct unpacked *unpacked, struct machine_disk *disk)
{
    const char *format =
        json_string_value(json_object_get(find_member(unpacked, disk->path), "format"));
    free(disk->format);
    disk->format = alloc_string(format != NULL ? format : "raw");
}

static void adopt_disks(struct unpacked *unpacked, struct machine_config *config)
{
    size_t kept = 0;
    for (size_t i = 0; i < config->disk_count; i++) {
        struct machine_disk *disk = &config->disks[i];
        bool drive = disk->media != 0;
        if (!(drive && disk->path[0] == '\0'))
            keep_member(unpacked, &disk->path, drive ? "the disc" : "the disk");
        if (disk->path != NULL && disk->path[0] != '\0')
            adopt_format(unpacked, disk);
        if (disk->path == NULL && drive)
            disk->path = alloc_string("");
        if (disk->path != NULL)
            config->disks[kept++] = *disk;
        else
            machine_disk_clear(disk);
    }
    config->disk_count = kept;
}

/* Text of a setting that is not taken over. */
static void drop_setting(struct unpacked *unpacked, char **text, const char *what)
{
    char sentence[NOTE_MAX];
    if (*text == NULL)
        return;
    snprintf(sentence, sizeof(sentence), "%s '%.200s' is left out", what, *text);
    json_array_append_new(unpacked->notes, json_string_nocheck(sentence));
    free(*text);
    *text = NULL;
}

/* A guest that is a stranger's gets out through NAT and no other way: not onto this host's
 * networks, which trust who is on them, nor to other machines; and nobody gets in. */
static void adopt_network(struct unpacked *unpacked, struct machine_nic *nic)
{
    char text[NOTE_MAX];
    if (nic->net == MACHINE_NET_BRIDGED || nic->net == MACHINE_NET_CUSTOM) {
        snprintf(
            text, sizeof(text),
            "ethernet%u is on NAT: it was on the network '%.100s' ('--keep-networks' keeps that)",
            nic->slot, nic->vnet != NULL ? nic->vnet : "");
        json_array_append_new(unpacked->notes, json_string_nocheck(text));
        nic->net = MACHINE_NET_NAT;
        nic->vlan = 0;
        free(nic->vnet);
        nic->vnet = NULL;
    }
    drop_setting(unpacked, &nic->vnet, "an interface of this host ('--keep-networks' keeps it),");
    drop_setting(unpacked, &nic->forward, "forwarding of ports ('--keep-networks' keeps it),");
}

static void adopt_rest(struct unpacked *unpacked, struct machine_config *config,
                       bool (*allowed)(const char *name))
{
    keep_member(unpacked, &config->kernel, "the kernel");
    keep_member(unpacked, &config->initrd, "the initrd");
    keep_member(unpacked, &config->firmware, "the firmware");
    keep_inside(unpacked, &config->dump_fdt, allowed, "the device tree's file");
    keep_inside(unpacked, &config->vsock_socket, allowed, "the vsock's socket");
    keep_inside(unpacked, &config->serial_path, allowed, "the console's file");
    if (config->serial_path == NULL)
        config->serial = MACHINE_SERIAL_TERMINAL;
    drop_setting(unpacked, &config->trace, "tracing");
    drop_setting(unpacked, &config->perf, "writing for Linux perf,");
    for (size_t i = 0; i < config->share_count; i++) {
        drop(unpacked, &config->shares[i].path, "the shared folder");
        free(config->shares[i].tag);
    }
    config->share_count = 0;
    for (size_t i = 0; i < config->nic_count; i++) {
        keep_inside(unpacked, &config->nics[i].capture, allowed, "the capture");
        if (config->nics[i].host_loopback)
            json_array_append_new(
                unpacked->notes,
                json_string("host-loopback is off: it leads the guest to what trusts this host"));
        config->nics[i].host_loopback = false;
    }
}

bool machine_adopt(struct unpacked *unpacked, const char *name, unsigned keep,
                   bool (*allowed)(const char *name), struct error **err)
{
    struct machine_config config;
    struct vmx_notes notes = {0};
    machine_config_init(&config);
    bool good = vmx_read(unpacked->text, &config, &notes, err);
    if (good) {
        bool same = (keep & MACHINE_KEEP_IDENTITY) != 0;
        stand_alone(&config);
        adopt_disks(unpacked, &config);
        adopt_rest(unpacked, &config, allowed);
        if ((keep & MACHINE_KEEP_NETWORKS) == 0)
            for (size_t i = 0; i < config.nic_count; i++)
                adopt_network(unpacked, &config.nics[i]);
        if (!same)
            identity_renew(unpacked->text, &config, NULL);
        if (!same && config.autostart) {
            config.autostart = false;
            json_array_append_new(unpacked->notes,
                                  json_string("it does not start with the host any more"));
        }
        free(config.name);
        config.name = alloc_string(name);
        good = machine_config_check_parts(&config, err);
    }
    if (good) {
        vmx_update(unpacked->text, &config);
        text_remove(unpacked->text, "trapeze.parent");
        text_remove(unpacked->text, "trapeze.snapshot");
    }
    char *sentence = vmx_notes_sentence(&notes, name);
    if (sentence != NULL)
        json_array_append_new(unpacked->notes, json_string_nocheck(sentence));
    free(sentence);
    vmx_notes_clear(&notes);
    machine_config_clear(&config);
    return good;
}
