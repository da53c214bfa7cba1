/* SPDX-License-Identifier: MIT
 *
 * Numbers as people write them on a command line.
 */
#ifndef TRAPEZE_CLI_SIZE_H
#define TRAPEZE_CLI_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/* "512M", "2G", "1TiB"; without a unit the number counts `unit` bytes. */
bool cli_parse_size(const char *text, uint64_t unit, uint64_t *bytes);
bool cli_parse_count(const char *text, uint64_t limit, uint64_t *value);

/* "1.5 GiB"; `text` has at least 32 bytes. */
const char *cli_show_size(uint64_t bytes, char *text);

#endif
