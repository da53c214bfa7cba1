/* SPDX-License-Identifier: MIT
 *
 * A machine as one compressed file, and back (unpack.h):
 *
 *     zstd of a pax tar with, in this order,
 *         manifest.json    {"trapeze-archive": 1, "name": "web", "description": "web.vmx",
 *                           "files": [{"name": "disk.img", "size": bytes, "data": bytes that are
 *                           no holes, "format": "qcow2"}, …], "notes": ["…"]}
 *         web.vmx          the machine
 *         disk.img …       "files": what the .vmx names. With a format: a disk, as the guest sees
 *                          it (no layers, no snapshots), that is to become an image of that format
 *         sums.json        {"web.vmx": SHA-256, "disk.img": …}
 *
 * A machine that is suspended has one more file, "suspended.vmss" (migrate/image.h), with "role":
 * "suspended" in its row, and the number of the format is 2. What its clock was set to is "rtc-offset" of
 * the manifest, nanoseconds (config/nvram.h). One whose firmware keeps variables has its .nvram as
 * "machine.nvram" with "role": "nvram", and format 4.
 *
 * A machine that moves with its snapshots (daemon/migrate_tree.h) has format 3, "tree" in its manifest, and
 * instead of its files parts: bytes as they are, named "part-0", "part-1" ..., with "role": "part". What a
 * part is the tree says, an .nvram too. Nobody else takes such an archive.
 *
 * Holes are a sparse file's (GNU.sparse 1.0), so any tar unpacks an archive. A sum is that of the
 * lines "OFFSET LENGTH\n" of the file's extents, in decimal, and then of their bytes. All that is
 * to be believed stands in front and is checked before space is taken; the same machine makes the
 * same bytes.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_ARCHIVE_PACK_H
#define TRAPEZE_ARCHIVE_PACK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/chain.h"
#include "config/text.h"

#define PACK_VERSION   4
#define PACK_SAVED     "suspended.vmss"
#define PACK_NVRAM     "machine.nvram"
#define PACK_HAS_NVRAM 4 /* the first format that has one */
#define PACK_MAX_NAME  63 /* bytes of a file's name */
#define PACK_MAX_FILES 48
#define PACK_MAX_PARTS 4096
#define PACK_PART      "part-"
#define PACK_MAX_SIZE  (UINT64_C(1) << 50) /* bytes of a file */
#define PACK_MANIFEST  "manifest.json"
#define PACK_SUMS      "sums.json"

struct pack;

/* Letters, digits, '.', '_' and '-', no '.' in front: the same file on every system. */
bool pack_name_is_plain(const char *name);
/* Whether it means something in every archive, or in a folder that is made of one. */
bool pack_name_is_reserved(const char *name);

/* `text` is borrowed until pack_free(). */
struct pack *pack_new(const char *name, const struct text *text);
/* Both take `image` and `fd` over, whatever comes of it; nobody may write to them meanwhile. */
bool pack_add_disk(struct pack *pack, const char *name, struct block_image *image,
                   const char *format, struct error **err);
bool pack_add_file(struct pack *pack, const char *name, int fd, struct error **err);
/* A disk that nobody has looked at yet, and pack_look() will: so that a confined process can. Takes
 * the descriptors over. */
bool pack_add_chain(struct pack *pack, const char *name, const struct block_chain *chain,
                    const char *format, struct error **err);
bool pack_look(struct pack *pack, struct error **err);
/* What it has open; returns how many, or more than `room` without having told them all. */
size_t pack_fds(const struct pack *pack, int *fds, size_t room);
/* What it was at when it was suspended; as pack_add_file(). */
bool pack_add_saved(struct pack *pack, int fd, struct error **err);
/* What its hardware remembers, as pack_add_file(): of a tree a part. */
bool pack_add_nvram(struct pack *pack, int fd, struct error **err);
/* Part `pack_parts() - 1` of a tree; as pack_add_file(), and what is a hole stays one. */
bool pack_add_part(struct pack *pack, int fd, struct error **err);
size_t pack_parts(const struct pack *pack);
void pack_set_tree(struct pack *pack, json_t *tree); /* steals it; before the first part */
void pack_set_clock(struct pack *pack, int64_t rtc_offset);
/* Something that a user should know. */
void pack_note(struct pack *pack, const char *sentence);
bool pack_has(const struct pack *pack, const char *name);

/* {"bytes": about as many as the tar will have, "notes": […]}. The caller frees it. */
char *pack_describe(const struct pack *pack);
/* To a file or a socket. */
bool pack_write(struct pack *pack, int fd, struct error **err);
void pack_free(struct pack *pack); /* NULL is fine */

#endif
