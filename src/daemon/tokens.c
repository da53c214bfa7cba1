/* SPDX-License-Identifier: MIT
 *
 * See tokens.h.
 */
#include "daemon/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "daemon/instance.h"
#include "daemon/store.h"

enum { FILE_MAX = 1 << 20, TOKENS_MAX = 1000, HASH_BYTES = 32, SECRET_BYTES = 32 };

static const char file_name[] = "tokens.json", new_name[] = "tokens.json.new";

static void to_hex(const unsigned char *bytes, size_t count, char *text)
{
    for (size_t i = 0; i < count; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

static void hash_of(const char *digits, char hex[2 * HASH_BYTES + 1])
{
    unsigned char hash[HASH_BYTES] = {0};
    gnutls_hash_fast(GNUTLS_DIG_SHA256, digits, TOKEN_DIGITS, hash);
    to_hex(hash, HASH_BYTES, hex);
}

/* ---- the file ---- */

static bool is_good(const json_t *tokens)
{
    size_t index;
    const json_t *row;
    if (!json_is_array(tokens))
        return false;
    json_array_foreach(tokens, index, row)
    {
        const json_t *hash = json_object_get(row, "sha256"), *name = json_object_get(row, "name");
        if (json_string_length(hash) != (size_t)2 * HASH_BYTES ||
            json_string_length(name) > TOKEN_NAME_MAX || json_string_length(name) == 0 ||
            !json_is_integer(json_object_get(row, "created")))
            return false;
    }
    return true;
}

/* The array, empty if there is no file. NULL: err. */
static json_t *load(const struct store *store, struct error **err)
{
    int fd = openat(store->folder, file_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat status;
    if (fd < 0 && errno == ENOENT)
        return json_array();
    char *text = alloc_zeroed(1, FILE_MAX);
    ssize_t size = fd >= 0 && fstat(fd, &status) == 0 ? read(fd, text, FILE_MAX) : -1;
    json_t *file = size > 0 ? json_loadb(text, (size_t)size, 0, NULL) : NULL;
    json_t *tokens = json_incref(json_object_get(file, "tokens"));
    if (size >= 0 && (status.st_mode & 077) != 0) {
        error_set(err, ERROR_HOST, "others can read or write '%s/%s'", store->path, file_name);
        error_hint(err, "Make its mode 0600, and its tokens anew.");
    } else if (!is_good(tokens)) {
        error_set(err, ERROR_HOST, "'%s/%s' is damaged", store->path, file_name);
        error_hint(err, "Remove it, and make the tokens anew.");
    } else {
        goto done;
    }
    json_decref(tokens);
    tokens = NULL;
done:
    json_decref(file);
    free(text);
    if (fd >= 0)
        close(fd);
    return tokens;
}

/* Whole or not at all. */
static bool save(const struct store *store, json_t *tokens, struct error **err)
{
    unlinkat(store->folder, new_name, 0);
    int fd = openat(store->folder, new_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    json_t *file = json_pack("{s:O}", "tokens", tokens);
    bool good = fd >= 0 && json_dumpfd(file, fd, JSON_INDENT(1)) == 0 && fsync(fd) == 0 &&
                renameat(store->folder, new_name, store->folder, file_name) == 0 &&
                fsync(store->folder) == 0;
    if (!good)
        error_set_errno(err, errno, "cannot write '%s/%s'", store->path, file_name);
    json_decref(file);
    if (fd >= 0)
        close(fd);
    return good;
}

static size_t find(const json_t *tokens, const char *name)
{
    size_t index;
    const json_t *row;
    json_array_foreach(tokens, index,
                       row) if (strcmp(json_string_value(json_object_get(row, "name")), name) ==
                                0) break;
    return index;
}

/* ---- its owner's side ---- */

char *tokens_create(const struct store *store, const char *name, struct error **err)
{
    unsigned char secret[SECRET_BYTES];
    char digits[TOKEN_DIGITS + 1], hash[2 * HASH_BYTES + 1], *token = NULL;
    json_t *tokens = instance_name_check(name, err) ? load(store, err) : NULL;
    if (tokens == NULL)
        return NULL;
    if (find(tokens, name) < json_array_size(tokens)) {
        error_set(err, ERROR_USAGE, "there is a token '%s' already", name);
        error_hint(err, "Revoke it first, or take another name.");
    } else if (json_array_size(tokens) >= TOKENS_MAX) {
        error_set(err, ERROR_USAGE, "there are %d tokens already", (int)TOKENS_MAX);
    } else if (getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret)) {
        error_set_errno(err, errno, "cannot get random numbers");
    } else {
        to_hex(secret, SECRET_BYTES, digits);
        hash_of(digits, hash);
        json_array_append_new(tokens, json_pack("{s:s, s:I, s:s}", "name", name, "created",
                                                (json_int_t)time(NULL), "sha256", hash));
        if (save(store, tokens, err) && asprintf(&token, TOKEN_PREFIX "%s", digits) < 0)
            token = NULL;
        explicit_bzero(secret, sizeof(secret));
        explicit_bzero(digits, sizeof(digits));
    }
    json_decref(tokens);
    return token;
}

json_t *tokens_list(const struct store *store, struct error **err)
{
    json_t *tokens = load(store, err), *row;
    size_t index;
    json_array_foreach(tokens, index, row) json_object_del(row, "sha256");
    return tokens;
}

bool tokens_revoke(const struct store *store, const char *name, struct error **err)
{
    json_t *tokens = load(store, err);
    if (tokens == NULL)
        return false;
    bool good = json_array_remove(tokens, find(tokens, name)) == 0 ||
                error_set(err, ERROR_USAGE, "there is no token '%s'", name);
    good = good && save(store, tokens, err);
    json_decref(tokens);
    return good;
}

/* ---- a stranger's side ---- */

const char *tokens_digits(const char *authorization)
{
    static const char scheme[] = "Bearer";
    if (authorization == NULL || strncasecmp(authorization, scheme, sizeof(scheme) - 1) != 0)
        return NULL;
    const char *at = authorization + sizeof(scheme) - 1;
    if (*at != ' ')
        return NULL;
    at += strspn(at, " ");
    if (strncmp(at, TOKEN_PREFIX, sizeof(TOKEN_PREFIX) - 1) != 0)
        return NULL;
    at += sizeof(TOKEN_PREFIX) - 1;
    return strspn(at, "0123456789abcdef") == TOKEN_DIGITS && at[TOKEN_DIGITS] == '\0' ? at : NULL;
}

bool tokens_admit(const struct store *store, const char *authorization,
                  char name[TOKEN_NAME_MAX + 1])
{
    char hash[2 * HASH_BYTES + 1];
    const char *digits = tokens_digits(authorization);
    json_t *tokens = digits != NULL ? load(store, NULL) : NULL, *row;
    bool found = false;
    size_t index;
    if (tokens == NULL)
        return false;
    hash_of(digits, hash);
    json_array_foreach(tokens, index, row)
    {
        const char *wanted = json_string_value(json_object_get(row, "sha256"));
        if (gnutls_memcmp(hash, wanted, sizeof(hash)) != 0)
            continue;
        found = true;
        snprintf(name, TOKEN_NAME_MAX + 1, "%s", json_string_value(json_object_get(row, "name")));
    }
    json_decref(tokens);
    return found;
}
