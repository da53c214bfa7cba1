/* SPDX-License-Identifier: MIT
 *
 * What the verbs of `trapeze disk` share. Each is a function that returns an exit status.
 */
#ifndef TRAPEZE_CLI_DISK_H
#define TRAPEZE_CLI_DISK_H

#include "block/open/open.h"
#include "cli/cli.h"

int disk_create(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err);
int disk_info(const struct cli_args *args, char *const *operands, size_t count, struct error **err);
int disk_map(const struct cli_args *args, char *const *operands, size_t count, struct error **err);
int disk_check(const struct cli_args *args, char *const *operands, size_t count,
               struct error **err);
int disk_resize(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err);
int disk_convert(const struct cli_args *args, char *const *operands, size_t count,
                 struct error **err);
int disk_commit(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err);

/* Of a running machine: disk_live.c */
int disk_attach(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err);
int disk_detach(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err);
int disk_insert(const struct cli_args *args, char *const *operands, size_t count,
                struct error **err);
int disk_eject(const struct cli_args *args, char *const *operands, size_t count,
               struct error **err);
int disk_list(const struct cli_args *args, char *const *operands, size_t count, struct error **err);

/* Prints what is wrong with an image in use. */
void disk_warn(void *opaque, const char *image, const char *text);

/* What --format and --cluster-size say. */
bool disk_parse_create(const struct cli_args *args, struct block_create *create,
                       const struct block_format **format, struct error **err);
/* Makes a new file of a format, of create->size bytes; removed again if that fails. */
bool disk_make(const char *path, const struct block_format *format,
               const struct block_create *create, bool replace, struct error **err);

#endif
