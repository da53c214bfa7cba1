/* SPDX-License-Identifier: MIT
 *
 * Connections to an NBD server, made by another process (block/open/connector.h) on request: a
 * process that may not connect asks at a SOCK_SEQPACKET socket and gets a connected one.
 *
 *     asks     uint32_t NUMBER
 *     gets     uint32_t NUMBER, the export's name, and with SCM_RIGHTS the connection, on which
 *              plain NBD is spoken: if the server wants TLS, the other process speaks that
 *     or       uint32_t NUMBER, a sentence that says why not, and no descriptor
 */
#ifndef TRAPEZE_BLOCK_NBD_SOCKET_H
#define TRAPEZE_BLOCK_NBD_SOCKET_H

#include "block/chain.h"

#define NBD_SOCKET_TEXT_MAX 4200u /* bytes; an export's name has up to 4096 */

/* Takes `fd` over on success. `name` is for messages. */
struct block_file *block_file_nbd_socket(int fd, const char *name, bool read_only,
                                         const struct block_chain_options *options,
                                         struct error **err);

#endif
