/* SPDX-License-Identifier: MIT
 *
 * What we call of libnbd, which is loaded when there is a disk on an NBD server: with what it
 * brings along (libxml2, ICU) it would cost every start of the program 3.5 ms.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_BLOCK_NBD_LIBRARY_H
#define TRAPEZE_BLOCK_NBD_LIBRARY_H

#include <libnbd.h>
#include <stdbool.h>

#include "base/library.h"

struct error;

/* clang-format off */
#define NBD_CALLS(X)                                                                               \
    X(nbd_create)                                                                                  \
    X(nbd_close)                                                                                   \
    X(nbd_shutdown)                                                                                \
    X(nbd_get_error)                                                                               \
    X(nbd_get_errno)                                                                               \
    X(nbd_set_export_name)                                                                         \
    X(nbd_get_size)                                                                                \
    X(nbd_is_read_only)                                                                            \
    X(nbd_can_flush)                                                                               \
    X(nbd_can_trim)                                                                                \
    X(nbd_can_zero)                                                                                \
    X(nbd_poll)                                                                                    \
    X(nbd_aio_connect_socket)                                                                      \
    X(nbd_aio_is_connecting)                                                                       \
    X(nbd_aio_is_ready)                                                                            \
    X(nbd_aio_is_dead)                                                                             \
    X(nbd_aio_is_closed)                                                                           \
    X(nbd_aio_get_fd)                                                                              \
    X(nbd_aio_get_direction)                                                                       \
    X(nbd_aio_notify_read)                                                                         \
    X(nbd_aio_notify_write)                                                                        \
    X(nbd_aio_pread)                                                                               \
    X(nbd_aio_pwrite)                                                                              \
    X(nbd_aio_flush)                                                                               \
    X(nbd_aio_zero)                                                                                \
    X(nbd_aio_trim)
/* clang-format on */

struct nbd_library {
    NBD_CALLS(LIBRARY_MEMBER)
};

/* Loads it, by its name. False: err. */
bool nbd_library_load(struct nbd_library *library, struct error **err);
/* The same where nothing can be opened any more: false, err, if this process has not loaded it. */
bool nbd_library_find(struct nbd_library *library, struct error **err);

#endif
