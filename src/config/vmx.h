/* SPDX-License-Identifier: MIT
 *
 * What the keys of a .vmx file (config/text.h) mean: one table of keys (vmx.c) leads from the
 * text to a machine's description and back. Names are VMware's where it has one for the thing:
 *
 *     memsize = "512"                      # MiB
 *     numvcpus = "2"
 *     scsi0:0.fileName = "disk.img"
 *     ethernet0.connectionType = "nat"
 *     trapeze.kernel = "Image"
 *
 * Disks are those of scsiC:U, sataC:U, nvmeC:U and ideC:U, in this order, which is that of the
 * guest's vda, vdb ... NICs are ethernetN, shared folders sharedFolderN. A device whose `present`
 * is "FALSE" is left out. File names are relative to the folder of the .vmx.
 *
 * A file that VMware wrote is read: what it says that cannot be honoured becomes a note; what
 * makes no difference is passed over. An unknown key that begins with "trapeze." or is nearly one
 * of ours is an error.
 */
#ifndef TRAPEZE_CONFIG_VMX_H
#define TRAPEZE_CONFIG_VMX_H

#include <stddef.h>

#include "config/machine.h"
#include "config/text.h"

/* Keys that are there and cannot be honoured. Zero-initialise; vmx_notes_clear() at the end. */
struct vmx_notes {
    struct vmx_note {
        char *key;
        char *value;
        unsigned line;
    } * list;
    size_t count;
};

void vmx_notes_clear(struct vmx_notes *notes);
/* "NAME: not honoured: sound.present (line 12), …"; NULL if there is nothing to say. Caller
 * frees. */
char *vmx_notes_sentence(const struct vmx_notes *notes, const char *name);

/* Changes what the text mentions; `config` was initialised by the caller. On failure config is
 * partly changed. `notes` may be NULL. */
bool vmx_read(const struct text *text, struct machine_config *config, struct vmx_notes *notes,
              struct error **err);

/* Makes the text say what config says, and changes nothing in it that says so already. The text
 * is one that vmx_read() takes. */
void vmx_update(struct text *text, const struct machine_config *config);

/* File names that are not absolute are taken for those of a folder. */
void vmx_resolve(struct machine_config *config, const char *folder);

/* text_load(), vmx_read() and vmx_resolve() for the file's own folder. */
bool vmx_load(const char *path, struct machine_config *config, struct vmx_notes *notes,
              struct error **err);

/* Text of this process for a worker: every key; devices are numbered anew, in their order. */
char *vmx_write(const struct machine_config *config, size_t *size); /* the caller frees it */
bool vmx_parse(const char *bytes, size_t size, const char *name, struct machine_config *config,
               struct error **err);

#endif
