/* SPDX-License-Identifier: MIT
 *
 * What an instance's hardware remembers (config/nvram.h), on its way in an archive: what its clock
 * was set to, and what its firmware keeps.
 *
 * Threads: a job's.
 */
#ifndef TRAPEZE_DAEMON_NVRAM_H
#define TRAPEZE_DAEMON_NVRAM_H

#include <stdbool.h>

#include "archive/pack.h"
#include "archive/unpack.h"
#include "daemon/instance.h"

/* Of an instance that does not run. `format`: the latest of archives (PACK_VERSION) that whoever
 * gets this one knows; what cannot go is noted. False: err. */
bool nvram_pack(const struct instance *instance, struct pack *pack, int format, struct error **err);
/* Into the folder that was unpacked into, of the instance `name`. False: err; there are none, or
 * they make no sense. */
bool nvram_place(int folder, const char *name, const struct unpacked *unpacked, struct error **err);

#endif
