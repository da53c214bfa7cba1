/* SPDX-License-Identifier: MIT
 *
 * What no two machines can share: NIC addresses, the vsock's address, the uuid.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_CONFIG_IDENTITY_H
#define TRAPEZE_CONFIG_IDENTITY_H

#include "config/machine.h"
#include "config/text.h"

/* New ones for a copy: of what it has in common with `original`, or (NULL) all. The uuid is the
 * text's alone; `config` goes into the text by vmx_update(). */
void identity_renew(struct text *text, struct machine_config *config,
                    const struct machine_config *original);

#endif
