/* SPDX-License-Identifier: MIT
 *
 * See nbd_uri.h.
 */
#include "block/open/nbd_uri.h"

#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

static const struct scheme {
    const char *prefix;
    bool tls, unix_socket;
} schemes[] = {
    {"nbd://", false, false},
    {"nbds://", true, false},
    {"nbd+unix://", false, true},
    {"nbds+unix://", true, true},
};

static const struct parameter {
    const char *name;
    size_t offset;
} parameters[] = {
    {"socket", offsetof(struct nbd_uri, socket)},
    {"tls-certificates", offsetof(struct nbd_uri, certificates)},
    {"tls-psk-file", offsetof(struct nbd_uri, psk_file)},
    {"tls-hostname", offsetof(struct nbd_uri, hostname)},
};

/* Bytes [text, end) with %XX replaced; NULL: a bad or zero byte. */
static char *decode(const char *text, const char *end)
{
    char *out = alloc_zeroed(1, (size_t)(end - text) + 1), *to = out;
    for (; text < end; text++) {
        char digits[3] = {0};
        *to = *text;
        if (*text == '%' && end - text > 2 && isxdigit((unsigned char)text[1]) &&
            isxdigit((unsigned char)text[2])) {
            memcpy(digits, text + 1, 2);
            *to = (char)strtoul(digits, NULL, 16);
            text += 2;
        } else if (*text == '%') {
            *to = '\0';
        }
        if (*to++ == '\0') {
            free(out);
            return NULL;
        }
    }
    return out;
}

static bool put(char **member, const char *text, const char *end)
{
    char *value = decode(text, end);
    free(*member);
    *member = value;
    return value != NULL;
}

/* [USER@][HOST[:PORT]] */
static bool parse_authority(struct nbd_uri *uri, const char *text, const char *end)
{
    const char *user = memchr(text, '@', (size_t)(end - text));
    if (user != NULL) {
        if (!put(&uri->user, text, user))
            return false;
        text = user + 1;
    }
    if (text == end)
        return true;
    const char *host_end = text, *close = NULL;
    if (*text == '[') {
        close = memchr(text, ']', (size_t)(end - text));
        if (close == NULL)
            return false;
        host_end = close + 1;
    } else {
        while (host_end < end && *host_end != ':')
            host_end++;
    }
    if (host_end < end && (*host_end != ':' || host_end + 1 == end))
        return false;
    if (host_end < end && !put(&uri->port, host_end + 1, end))
        return false;
    return put(&uri->host, close != NULL ? text + 1 : text, close != NULL ? close : host_end);
}

static bool is_word(const char *text, const char *end, const char *word)
{
    return (size_t)(end - text) == strlen(word) && memcmp(text, word, strlen(word)) == 0;
}

static bool parse_parameter(struct nbd_uri *uri, const char *text, const char *end,
                            struct error **err)
{
    const char *equals = memchr(text, '=', (size_t)(end - text));
    const char *value = equals != NULL ? equals + 1 : end;
    size_t length = (size_t)((equals != NULL ? equals : end) - text);
    for (size_t i = 0; i < ARRAY_SIZE(parameters); i++)
        if (strlen(parameters[i].name) == length && memcmp(parameters[i].name, text, length) == 0)
            return put((char **)(void *)((char *)uri + parameters[i].offset), value, end);
    if (length == strlen("tls-verify-peer") && memcmp(text, "tls-verify-peer", length) == 0) {
        uri->trusting = is_word(value, end, "false") || is_word(value, end, "0");
        return uri->trusting || is_word(value, end, "true") || is_word(value, end, "1") ||
               error_set(err, ERROR_USAGE,
                         "tls-verify-peer of an NBD server is true or false, not '%.*s'",
                         (int)(end - value), value);
    }
    return error_set(err, ERROR_USAGE, "an NBD server's address has no '%.*s'", (int)length, text);
}

static bool parse_query(struct nbd_uri *uri, const char *text, struct error **err)
{
    while (*text != '\0') {
        const char *end = text + strcspn(text, "&;");
        if (end > text && !parse_parameter(uri, text, end, err))
            return false;
        text = *end != '\0' ? end + 1 : end;
    }
    return true;
}

static bool parse(const char *text, struct nbd_uri *uri, struct error **err)
{
    const struct scheme *scheme = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(schemes); i++)
        if (strncmp(text, schemes[i].prefix, strlen(schemes[i].prefix)) == 0)
            scheme = &schemes[i];
    if (scheme == NULL)
        return false;
    uri->tls = scheme->tls;
    text += strlen(scheme->prefix);
    const char *path = text + strcspn(text, "/?"), *query = path + strcspn(path, "?");
    if (!parse_authority(uri, text, path) ||
        !put(&uri->export, *path == '/' ? path + 1 : path, query) ||
        (*query == '?' && !parse_query(uri, query + 1, err)))
        return false;
    if (!scheme->unix_socket && uri->port == NULL)
        uri->port = alloc_string("10809");
    return scheme->unix_socket ? uri->socket != NULL && uri->host == NULL
                               : uri->socket == NULL && uri->host != NULL;
}

bool nbd_uri_parse(const char *text, struct nbd_uri *uri, struct error **err)
{
    struct error *detail = NULL;
    *uri = (struct nbd_uri){.tls = false};
    if (parse(text, uri, &detail))
        return true;
    nbd_uri_clear(uri);
    error_set(err, ERROR_USAGE, "%s",
              detail != NULL ? error_message(detail) : "this is no address of an NBD server");
    error_hint(err, "Write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; nbds:// and "
                    "nbds+unix:// with TLS");
    error_free(detail);
    return false;
}

void nbd_uri_clear(struct nbd_uri *uri)
{
    char *const texts[] = {uri->user,   uri->host,         uri->port,     uri->socket,
                           uri->export, uri->certificates, uri->psk_file, uri->hostname};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        free(texts[i]);
    *uri = (struct nbd_uri){.tls = false};
}
