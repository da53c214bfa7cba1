/* SPDX-License-Identifier: MIT
 *
 * An OVF envelope (DSP0243, 1.x and 2.x), as much of it as a machine of ours can have: one virtual
 * system, its processors, memory, disks by controller and address, NICs. The text is a stranger's:
 * its size, depth and the number of things in it are bounded, and it may have no document type, so
 * no entities.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_ARCHIVE_OVF_H
#define TRAPEZE_ARCHIVE_OVF_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct text;

#define OVF_MAX_SIZE  ((size_t)1 << 20) /* bytes */
#define OVF_MAX_FILES 32
#define OVF_MAX_DISKS 32
#define OVF_MAX_ITEMS 128

struct ovf_file {
    char *id, *href;
    uint64_t size;   /* bytes; 0: not said */
    char *unhandled; /* "gzip": it is not as we read it; NULL: it is */
};

struct ovf_disk {
    char *id, *file;   /* id of its file; NULL: it is empty */
    uint64_t capacity; /* bytes */
    bool has_parent;
};

struct ovf_item {
    unsigned type; /* CIM's ResourceType */
    uint64_t quantity;
    char *units, *id, *parent, *subtype, *host, *address, *name;
};

struct ovf {
    char *name, *os;
    unsigned systems;
    struct ovf_file files[OVF_MAX_FILES];
    struct ovf_disk disks[OVF_MAX_DISKS];
    struct ovf_item items[OVF_MAX_ITEMS];
    size_t file_count, disk_count, item_count;
};

/* False: err, and nothing is to be cleared. */
bool ovf_parse(const char *bytes, size_t size, struct ovf *ovf, struct error **err);
void ovf_clear(struct ovf *ovf);

/* As a .vmx whose disks are called by the names of their files; what cannot be honoured is added to
 * `notes` as sentences. */
struct text *ovf_describe(const struct ovf *ovf, const char *name, json_t *notes);
/* The disk that a file has; NULL: none. */
const struct ovf_disk *ovf_disk_of(const struct ovf *ovf, const char *href);

#endif
