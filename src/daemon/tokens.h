/* SPDX-License-Identifier: MIT
 *
 * Bearer tokens (RFC 6750) for the API over TCP: STORE/tokens.json, mode 0600,
 *
 *     {"tokens": [{"name": "laptop", "created": 1760000000, "sha256": "…"}]}
 *
 * A token is "trapeze-" and 64 hexadecimal digits out of the kernel's random numbers. Only its
 * hash is kept: that of 256 random bits needs no salt and no slow function. The file is read again
 * at every use, so what it says holds at once, whoever changed it.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_DAEMON_TOKENS_H
#define TRAPEZE_DAEMON_TOKENS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct error;
struct store;

#define TOKEN_PREFIX   "trapeze-"
#define TOKEN_DIGITS   64
#define TOKEN_NAME_MAX 63

/* The token, which is known to nobody but the caller, who frees it. NULL: err. */
char *tokens_create(const struct store *store, const char *name, struct error **err);
/* [{"name", "created"}]; NULL: err. */
json_t *tokens_list(const struct store *store, struct error **err);
/* False: err, ERROR_USAGE if there is none of this name. */
bool tokens_revoke(const struct store *store, const char *name, struct error **err);

/* Whose token an Authorization header has: true, and its name. The time that it takes does not tell
 * how much of a token was right. */
bool tokens_admit(const struct store *store, const char *authorization,
                  char name[TOKEN_NAME_MAX + 1]);
/* The digits of "Bearer trapeze-…"; NULL: it is none such. */
const char *tokens_digits(const char *authorization);

#endif
