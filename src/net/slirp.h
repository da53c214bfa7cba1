/* SPDX-License-Identifier: MIT
 *
 * What we call of libslirp, which only the processes that are somebody's network load
 * (base/library.h): with glib it costs a start half a millisecond.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_NET_SLIRP_H
#define TRAPEZE_NET_SLIRP_H

#include <slirp/libslirp.h>
#include <stdbool.h>

#include "base/library.h"

struct error;

/* clang-format off */
#define SLIRP_CALLS(X)                                                                             \
    X(slirp_new)                                                                                   \
    X(slirp_cleanup)                                                                               \
    X(slirp_input)                                                                                 \
    X(slirp_pollfds_fill)                                                                          \
    X(slirp_pollfds_poll)                                                                          \
    X(slirp_handle_timer)                                                                          \
    X(slirp_add_hostxfwd)
/* clang-format on */

struct slirp_library {
    SLIRP_CALLS(LIBRARY_MEMBER)
};

/* While files can still be opened. False: err. */
bool slirp_load(struct slirp_library *library, struct error **err);

#endif
