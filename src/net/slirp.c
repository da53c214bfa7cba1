/* SPDX-License-Identifier: MIT
 *
 * See slirp.h.
 */
#include "net/slirp.h"

#include <stddef.h>

#include "base/error.h"

bool slirp_load(struct slirp_library *library, struct error **err)
{
    static const char *const names[] = {"libslirp.so.0", NULL}, *const calls[] = {SLIRP_CALLS(
                                                                    LIBRARY_NAME_OF) NULL};
    const char *why;
    if (library_load(names, calls, library, &why))
        return true;
    error_set(err, ERROR_HOST, "this network needs libslirp, which cannot be loaded: %s",
              why != NULL ? why : "?");
    error_hint(err, "Install it: apt-get install libslirp0");
    return false;
}
