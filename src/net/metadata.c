/* SPDX-License-Identifier: MIT
 *
 * See metadata.h. Statuses and texts are Firecracker's.
 */
#include "net/metadata.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/library.h"

enum {
    OK = 200,
    BAD_REQUEST = 400,
    UNAUTHORIZED = 401,
    NOT_FOUND = 404,
    METHOD_NOT_ALLOWED = 405,
    NOT_IMPLEMENTED = 501,
    KEY_BYTES = 32,
    MAC_BYTES = 24, /* of SHA-256's 32 */
    EXPIRY_BYTES = 8,
    TOKEN_BYTES = EXPIRY_BYTES + MAC_BYTES,
    HASH_BYTES = 32,
    ID_MAX = 64,
    TTL_MAX_S = 21600
};

#define CALLS(X) X(gnutls_hmac_fast)
struct crypto {
    CALLS(LIBRARY_MEMBER)
};

struct metadata {
    struct crypto crypto;
    char id[ID_MAX + 1];
    uint8_t key[KEY_BYTES];
    unsigned version; /* 0: nothing was told yet */
    bool plain;       /* never JSON */
    json_t *store;
};

/* A part of the request; not ended by a zero byte. */
struct text {
    const char *at;
    size_t size;
};

struct request {
    struct text method, path;
    struct text token, ttl, ttl_name, forwarded; /* at NULL: there is none */
    bool json, last, chunked;
    size_t body; /* bytes */
};

/* ---- reading ---- */

static bool is(struct text text, const char *word)
{
    return text.size == strlen(word) && memcmp(text.at, word, text.size) == 0;
}

static bool is_name(struct text text, const char *word)
{
    return text.size == strlen(word) && strncasecmp(text.at, word, text.size) == 0;
}

static bool has_word(struct text text, const char *word)
{
    size_t length = strlen(word);
    for (size_t i = 0; i + length <= text.size; i++)
        if (strncasecmp(text.at + i, word, length) == 0)
            return true;
    return false;
}

/* Takes what is before the separator off the text; all of it if there is none. */
static struct text cut(struct text *text, char separator)
{
    const char *end = memchr(text->at, separator, text->size);
    size_t size = end != NULL ? (size_t)(end - text->at) : text->size;
    struct text front = {text->at, size};
    text->at += end != NULL ? size + 1 : size;
    text->size -= end != NULL ? size + 1 : size;
    return front;
}

static struct text trim(struct text text)
{
    while (text.size > 0 && (text.at[0] == ' ' || text.at[0] == '\t'))
        text.at++, text.size--;
    while (text.size > 0 && (text.at[text.size - 1] == ' ' || text.at[text.size - 1] == '\t'))
        text.size--;
    return text;
}

/* Decimal digits and nothing else. */
static bool read_number(struct text text, uint64_t limit, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
        *number = *number * 10 + (uint64_t)(text.at[i] - '0');
        if (*number > limit)
            return false;
    }
    return text.size > 0;
}

static bool take_header(struct request *request, struct text line)
{
    uint64_t body;
    if (memchr(line.at, ':', line.size) == NULL)
        return false;
    struct text name = cut(&line, ':'), value = trim(line);
    if (is_name(name, "Accept"))
        request->json = has_word(value, "application/json");
    else if (is_name(name, "Connection"))
        request->last |= has_word(value, "close");
    else if (is_name(name, "Transfer-Encoding"))
        request->chunked = true;
    else if (is_name(name, "X-Forwarded-For"))
        request->forwarded = name;
    else if (is_name(name, "X-metadata-token") || is_name(name, "X-aws-ec2-metadata-token"))
        request->token = value;
    else if (is_name(name, "X-metadata-token-ttl-seconds") ||
             is_name(name, "X-aws-ec2-metadata-token-ttl-seconds")) {
        request->ttl = value;
        request->ttl_name = name;
    } else if (is_name(name, "Content-Length")) {
        if (!read_number(value, SERVICE_REQUEST_MAX, &body))
            return false;
        request->body = (size_t)body;
    }
    return true;
}

static bool is_plain(struct text text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.at[i] < 0x20 || text.at[i] > 0x7e)
            return false;
    return true;
}

/* The head of a request, lines that end with CR LF. */
static bool read_head(struct request *request, struct text head)
{
    *request = (struct request){.json = false};
    struct text line = cut(&head, '\n');
    if (line.size > 0 && line.at[line.size - 1] == '\r')
        line.size--;
    if (!is_plain(line))
        return false;
    request->method = cut(&line, ' ');
    request->path = cut(&line, ' ');
    if (!is(line, "HTTP/1.1") && !is(line, "HTTP/1.0"))
        return false;
    request->last = is(line, "HTTP/1.0");
    if (request->path.size > 7 && strncasecmp(request->path.at, "http://", 7) == 0) {
        struct text rest = {request->path.at + 7, request->path.size - 7};
        const char *slash = memchr(rest.at, '/', rest.size);
        request->path =
            (struct text){slash, slash != NULL ? rest.size - (size_t)(slash - rest.at) : 0};
    }
    while (head.size > 0) {
        line = cut(&head, '\n');
        if (line.size > 0 && line.at[line.size - 1] == '\r')
            line.size--;
        if (line.size > 0 && !take_header(request, line))
            return false;
    }
    return true;
}

/* ---- answering ---- */

static const char *reason(int status)
{
    switch (status) {
    case OK:
        return "OK";
    case UNAUTHORIZED:
        return "Unauthorized";
    case NOT_FOUND:
        return "Not Found";
    case METHOD_NOT_ALLOWED:
        return "Method Not Allowed";
    case NOT_IMPLEMENTED:
        return "Not Implemented";
    default:
        return "Bad Request";
    }
}

/* Takes the body. `more`: further headers, each with its end. */
static void finish(struct service_answer *answer, const struct request *request, int status,
                   bool json, char *body, const char *more)
{
    char *head = NULL;
    size_t size = strlen(body);
    int length = asprintf(&head,
                          "HTTP/1.1 %d %s\r\nServer: trapeze\r\nConnection: %s\r\n%sContent-Type: "
                          "%s\r\nContent-Length: %zu\r\n\r\n",
                          status, reason(status), request->last ? "close" : "keep-alive", more,
                          json ? "application/json" : "text/plain", size);
    if (length < 0)
        abort(); /* as base/alloc.h */
    *answer = (struct service_answer){.data = alloc_resize(NULL, (size_t)length + size, 1),
                                      .size = (size_t)length + size,
                                      .last = request->last};
    memcpy(answer->data, head, (size_t)length);
    memcpy(answer->data + length, body, size);
    free(head);
    free(body);
}

static void say(struct service_answer *answer, const struct request *request, int status,
                const char *text)
{
    finish(answer, request, status, false, alloc_string(text),
           status == METHOD_NOT_ALLOWED ? "Allow: GET, PUT\r\n" : "");
}

/* ---- tokens ---- */

static void sign(const struct metadata *metadata, const uint8_t expiry[EXPIRY_BYTES],
                 uint8_t mac[HASH_BYTES])
{
    uint8_t text[EXPIRY_BYTES + ID_MAX] = {0};
    memcpy(text, expiry, EXPIRY_BYTES);
    memcpy(text + EXPIRY_BYTES, metadata->id, strlen(metadata->id));
    memset(mac, 0, HASH_BYTES);
    metadata->crypto.gnutls_hmac_fast(GNUTLS_MAC_SHA256, metadata->key, KEY_BYTES, text,
                                      sizeof(text), mac);
}

static void write_token(const struct metadata *metadata, uint64_t expiry_ms,
                        char text[2 * TOKEN_BYTES + 1])
{
    uint8_t token[EXPIRY_BYTES + HASH_BYTES];
    store_le64(token, expiry_ms);
    sign(metadata, token, token + EXPIRY_BYTES);
    for (size_t i = 0; i < TOKEN_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", token[i]);
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hex(const char *text, uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int high = digit(text[2 * i]), low = high >= 0 ? digit(text[2 * i + 1]) : -1;
        if (low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool is_token(const struct metadata *metadata, struct text text, int64_t now_ms)
{
    uint8_t token[TOKEN_BYTES], mac[HASH_BYTES], differs = 0;
    if (text.size != sizeof(token) * 2 || !read_hex(text.at, token, TOKEN_BYTES))
        return false;
    sign(metadata, token, mac);
    for (size_t i = 0; i < MAC_BYTES; i++) /* in the same time, whatever it is */
        differs |= (uint8_t)(mac[i] ^ token[EXPIRY_BYTES + i]);
    return differs == 0 && load_le64(token) > (uint64_t)now_ms;
}

/* ---- the document ---- */

/* RFC 6901 of a path with any number of slashes for one, and at its end. */
static json_t *find(json_t *value, struct text path)
{
    char name[SERVICE_REQUEST_MAX];
    while (path.size > 0 && value != NULL) {
        struct text part = cut(&path, '/');
        size_t length = 0;
        uint64_t index;
        if (part.size == 0)
            continue;
        for (size_t i = 0; i < part.size && length < sizeof(name) - 1; i++) {
            bool escape = part.at[i] == '~' && i + 1 < part.size &&
                          (part.at[i + 1] == '0' || part.at[i + 1] == '1');
            name[length++] = !escape ? part.at[i] : part.at[i + 1] == '0' ? '~' : '/';
            i += escape;
        }
        name[length] = '\0';
        bool number =
            read_number(part, SIZE_MAX / 16, &index) && (part.size == 1 || part.at[0] != '0');
        if (json_is_array(value))
            value = number ? json_array_get(value, (size_t)index) : NULL;
        else
            value = json_object_get(value, name);
    }
    return value;
}

static int compare(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* As EC2's service has it: names in order, those of objects with a slash. */
static char *list_names(json_t *object)
{
    size_t count = 0, size = 0, total = json_object_size(object);
    const char **names = alloc_zeroed(total + 1, sizeof(*names)), *name;
    json_t *value;
    char *text = NULL;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        abort();
    json_object_foreach(object, name, value) names[count++] = name;
    qsort(names, count, sizeof(*names), compare);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s%s%s", i > 0 ? "\n" : "", names[i],
                json_is_object(json_object_get(object, names[i])) ? "/" : "");
    fclose(out);
    free(names);
    return text;
}

static void say_not_found(struct service_answer *answer, const struct request *request)
{
    char *text = NULL;
    if (asprintf(&text, "Resource not found: %.*s.", (int)request->path.size, request->path.at) < 0)
        abort();
    finish(answer, request, NOT_FOUND, false, text, "");
}

static void get(const struct metadata *metadata, const struct request *request,
                struct service_answer *answer)
{
    json_t *value = metadata->store != NULL ? find(metadata->store, request->path) : NULL;
    bool json = request->json && !metadata->plain;
    if (value == NULL)
        say_not_found(answer, request);
    else if (json)
        finish(answer, request, OK, true,
               json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS), "");
    else if (json_is_object(value))
        finish(answer, request, OK, request->json, list_names(value), "");
    else if (json_is_string(value))
        finish(answer, request, OK, request->json, alloc_string(json_string_value(value)), "");
    else
        say(answer, request, NOT_IMPLEMENTED,
            "Cannot retrieve value. The value has an unsupported type.");
}

static bool is_token_path(struct text path)
{
    static const char *const parts[] = {"latest", "api", "token"};
    size_t found = 0;
    if (path.size == 0 || path.at[path.size - 1] == '/')
        return false;
    while (path.size > 0) {
        struct text part = cut(&path, '/');
        if (part.size == 0)
            continue;
        if (found == ARRAY_SIZE(parts) || !is(part, parts[found++]))
            return false;
    }
    return found == ARRAY_SIZE(parts);
}

static void put(const struct metadata *metadata, const struct request *request, int64_t now_ms,
                struct service_answer *answer)
{
    char text[256], token[2 * TOKEN_BYTES + 1], header[128];
    uint64_t ttl;
    if (request->forwarded.at != NULL) {
        snprintf(text, sizeof(text), "Invalid header. Reason: Unsupported header name. Key: %.*s",
                 (int)request->forwarded.size, request->forwarded.at);
        say(answer, request, BAD_REQUEST, text);
    } else if (!is_token_path(request->path)) {
        say_not_found(answer, request);
    } else if (request->ttl.at == NULL) {
        say(answer, request, BAD_REQUEST,
            "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or "
            "`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.");
    } else if (!read_number(request->ttl, UINT32_MAX, &ttl)) {
        snprintf(text, sizeof(text), "Invalid header. Reason: Invalid value. Key:%.*s; Value:%.*s",
                 (int)request->ttl_name.size, request->ttl_name.at,
                 (int)(request->ttl.size < 100 ? request->ttl.size : 100), request->ttl.at);
        say(answer, request, BAD_REQUEST, text);
    } else if (ttl < 1 || ttl > TTL_MAX_S) {
        snprintf(text, sizeof(text),
                 "Invalid time to live value provided for token: %llu. Please provide a value "
                 "between 1 and %d.",
                 (unsigned long long)ttl, TTL_MAX_S);
        say(answer, request, BAD_REQUEST, text);
    } else {
        write_token(metadata, (uint64_t)now_ms + ttl * 1000, token);
        snprintf(header, sizeof(header), "%.*s: %llu\r\n", (int)request->ttl_name.size,
                 request->ttl_name.at, (unsigned long long)ttl);
        finish(answer, request, OK, false, alloc_string(token), header);
    }
}

static void carry_out(const struct metadata *metadata, const struct request *request,
                      int64_t now_ms, struct service_answer *answer)
{
    bool gets = is(request->method, "GET");
    if (request->path.size == 0 || request->path.at[0] != '/')
        say(answer, request, BAD_REQUEST, "Invalid URI.");
    else if (is(request->method, "PUT"))
        put(metadata, request, now_ms, answer);
    else if (!gets)
        say(answer, request, METHOD_NOT_ALLOWED, "Not allowed HTTP method.");
    else if (metadata->version == 2 && request->token.at == NULL)
        say(answer, request, UNAUTHORIZED,
            "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header "
            "to "
            "specify the session token.");
    else if (metadata->version == 2 && !is_token(metadata, request->token, now_ms))
        say(answer, request, UNAUTHORIZED, "MMDS token not valid.");
    else
        get(metadata, request, answer);
}

int metadata_request_at(struct metadata *metadata, const uint8_t *data, size_t size, int64_t now_ms,
                        struct service_answer *answer)
{
    struct request request;
    const uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    size_t head = (size_t)(end - data) + 2;
    if (!read_head(&request, (struct text){(const char *)data, head}) || request.chunked) {
        request = (struct request){.last = true}; /* where the next one begins is not known */
        say(answer, &request, BAD_REQUEST, "Invalid request.");
        return (int)size;
    }
    if (request.body > SERVICE_REQUEST_MAX - head - 2)
        return -1;
    if (size < head + 2 + request.body)
        return 0;
    carry_out(metadata, &request, now_ms, answer);
    return (int)(head + 2 + request.body);
}

int metadata_request(void *opaque, const uint8_t *data, size_t size, struct service_answer *answer)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return metadata_request_at(opaque, data, size,
                               now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000, answer);
}

/* ---- what there is to answer ---- */

struct metadata *metadata_new(struct error **err)
{
    static const char *const names[] = {"libgnutls.so.30", NULL};
    static const char *const calls[] = {CALLS(LIBRARY_NAME_OF) NULL};
    struct metadata *metadata = alloc_zeroed(1, sizeof(*metadata));
    const char *why;
    if (library_load(names, calls, &metadata->crypto, &why))
        return metadata;
    error_set(err, ERROR_HOST, "the metadata service needs GnuTLS: %s", why != NULL ? why : "");
    free(metadata);
    return NULL;
}

void metadata_free(struct metadata *metadata)
{
    if (metadata == NULL)
        return;
    json_decref(metadata->store);
    free(metadata);
}

bool metadata_tell(struct metadata *metadata, const void *text, size_t size)
{
    json_t *message = json_loadb(text, size, 0, NULL);
    const char *id = json_string_value(json_object_get(message, "id"));
    const char *key = json_string_value(json_object_get(message, "key"));
    json_int_t version = json_integer_value(json_object_get(message, "version"));
    uint8_t bytes[KEY_BYTES];
    bool good = id != NULL && strlen(id) <= ID_MAX && key != NULL &&
                strlen(key) == 2 * sizeof(bytes) && read_hex(key, bytes, sizeof(bytes)) &&
                (version == 1 || version == 2);
    if (good) {
        snprintf(metadata->id, sizeof(metadata->id), "%s", id);
        memcpy(metadata->key, bytes, sizeof(bytes));
        metadata->version = (unsigned)version;
        metadata->plain = json_is_true(json_object_get(message, "plain"));
        json_decref(metadata->store);
        metadata->store = json_incref(json_object_get(message, "store"));
    }
    json_decref(message);
    return good;
}
