/* SPDX-License-Identifier: MIT
 *
 * See nbd_library.h.
 */
#include "block/nbd_library.h"

#include <stddef.h>

#include "base/error.h"

#define NAME "libnbd.so.0"

bool nbd_library_load(struct nbd_library *library, struct error **err)
{
    static const char *const names[] = {NAME, NULL}, *const calls[] = {NBD_CALLS(LIBRARY_NAME_OF)
                                                                           NULL};
    const char *why;
    if (library_load(names, calls, library, &why))
        return true;
    error_set(err, ERROR_HOST, "disks on NBD servers need libnbd, which cannot be loaded: %s",
              why != NULL ? why : "?");
    error_hint(err, "Install it: apt-get install libnbd0");
    return false;
}

bool nbd_library_find(struct nbd_library *library, struct error **err)
{
    if (library_is_loaded(NAME))
        return nbd_library_load(library, err);
    error_set(err, ERROR_USAGE,
              "this machine went on from a file without disks on NBD servers, and cannot get one "
              "before it is started anew");
    error_hint(err,
               "libnbd is loaded at a start: a resumed machine that needs none is faster there.");
    return false;
}
