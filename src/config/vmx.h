/* SPDX-License-Identifier: MIT
 *
 * The .vmx text format: one `key = "value"` per line, '#' starts a comment line, keys are
 * compared without case. In a value, |XX stands for the byte with hexadecimal code XX
 * (VMware's escape); the writer escapes '"', '|' and control characters that way.
 *
 *     memsize = "512"                      # MiB
 *     numvcpus = "2"
 *     scsi0:0.fileName = "disk.img"
 *     trapeze.kernel = "Image"
 *
 * Reader and writer work from one table of keys (vmx.c).
 */
#ifndef TRAPEZE_CONFIG_VMX_H
#define TRAPEZE_CONFIG_VMX_H

#include <stddef.h>

#include "config/machine.h"

#define VMX_MAX_SIZE ((size_t)1 << 20) /* bytes */

/* Changes what the text mentions; `config` was initialised by the caller. `name` is the
 * file's name for messages: "NAME:LINE: …". On failure config is partly changed. */
bool vmx_parse(const char *text, size_t size, const char *name, struct machine_config *config,
               struct error **err);

/* The whole description as text; malloc()ed, the caller frees it; its length in *size. */
char *vmx_write(const struct machine_config *config, size_t *size);

/* vmx_parse() of a file. */
bool vmx_load(const char *path, struct machine_config *config, struct error **err);

#endif
