/* SPDX-License-Identifier: MIT
 *
 * Connecting to an NBD server, for open.c.
 */
#ifndef TRAPEZE_BLOCK_OPEN_OPEN_NBD_H
#define TRAPEZE_BLOCK_OPEN_OPEN_NBD_H

#include "block/open/open.h"

struct block_file *block_open_nbd(const char *uri, const struct block_open_options *options,
                                  struct error **err);

#endif
