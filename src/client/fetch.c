/* SPDX-License-Identifier: MIT
 *
 * See fetch.h.
 */
#include "client/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/library.h"
#include "build.h"

enum { REDIRECTS = 10, CONNECT_S = 20, SLOW_S = 30, SLOWEST = 1024, TRIES = 5, HTTP_OK = 200 };
enum { HTTP_PARTIAL = 206, HTTP_UNSATISFIABLE = 416 };
#define WORTH_A_TRY (1 * MIB)

#define CALLS(X)                                                                                   \
    X(curl_global_init)                                                                            \
    X(curl_easy_init)                                                                              \
    X(curl_easy_setopt)                                                                            \
    X(curl_easy_perform)                                                                           \
    X(curl_easy_getinfo)                                                                           \
    X(curl_easy_strerror)                                                                          \
    X(curl_easy_cleanup)                                                                           \
    X(curl_slist_append)                                                                           \
    X(curl_slist_free_all)

/* The checks of libcurl's macros want the functions' own names. */
#undef curl_easy_setopt
#undef curl_easy_getinfo

struct library {
    CALLS(LIBRARY_MEMBER)
};

struct transfer {
    struct fetch *fetch;
    struct library library;
    CURL *curl;
    char strong[FETCH_MAX_VALIDATOR], date[FETCH_MAX_VALIDATOR]; /* of this answer */
    uint64_t begin;                                              /* what was there before */
    uint64_t done, total;
    uint64_t range; /* where a partial answer begins */
    bool began, useless;
    struct error *error;
};

bool fetch_is_url(const char *name)
{
    return strncasecmp(name, "http://", 7) == 0 || strncasecmp(name, "https://", 8) == 0;
}

static bool load(struct library *library, struct error **err)
{
    static const char *const names[] = {"libcurl-gnutls.so.4", "libcurl.so.4", NULL},
                             *const calls[] = {CALLS(LIBRARY_NAME_OF) NULL};
    const char *why;
    if (library_load(names, calls, library, &why) &&
        library->curl_global_init(CURL_GLOBAL_DEFAULT) == 0)
        return true;
    error_set(err, ERROR_HOST, "downloads need libcurl, which cannot be loaded");
    error_hint(err, "Install it: apt-get install libcurl3-gnutls (or libcurl3t64-gnutls)");
    return false;
}

/* ---- an answer as it comes ---- */

static void keep_value(char value[FETCH_MAX_VALIDATOR], const char *text, size_t size)
{
    while (size > 0 && (*text == ' ' || *text == '\t'))
        text++, size--;
    while (size > 0 && (text[size - 1] == '\r' || text[size - 1] == '\n'))
        size--;
    if (size < FETCH_MAX_VALIDATOR) {
        memcpy(value, text, size);
        value[size] = '\0';
    }
}

static size_t on_header(char *line, size_t one, size_t size, void *opaque)
{
    static const char etag[] = "ETag:", date[] = "Last-Modified:", range[] = "Content-Range:";
    struct transfer *t = opaque;
    char value[FETCH_MAX_VALIDATOR] = "";
    (void)one;
    if (size >= 5 && memcmp(line, "HTTP/", 5) == 0) { /* another answer, perhaps a redirection's */
        t->strong[0] = t->date[0] = '\0';
        t->range = UINT64_MAX;
    } else if (size > sizeof(etag) && strncasecmp(line, etag, sizeof(etag) - 1) == 0) {
        keep_value(value, line + sizeof(etag) - 1, size - sizeof(etag) + 1);
        if (value[0] == '"') /* a weak one says nothing of bytes */
            memcpy(t->strong, value, sizeof(value));
    } else if (size > sizeof(date) && strncasecmp(line, date, sizeof(date) - 1) == 0) {
        keep_value(t->date, line + sizeof(date) - 1, size - sizeof(date) + 1);
    } else if (size > sizeof(range) && strncasecmp(line, range, sizeof(range) - 1) == 0) {
        unsigned long long begin;
        keep_value(value, line + sizeof(range) - 1, size - sizeof(range) + 1);
        if (sscanf(value, "bytes %llu-", &begin) == 1)
            t->range = begin;
    }
    return size;
}

static bool too_large(struct transfer *t, uint64_t bytes)
{
    if (bytes <= t->fetch->space)
        return false;
    error_set(&t->error, ERROR_HOST, "there is not enough space for it: it has %s%llu MiB",
              bytes == t->total ? "" : "more than ", (unsigned long long)(bytes / MIB));
    error_hint(&t->error, "Free some space first.");
    return true;
}

/* The first bytes of an answer: what is it? */
static bool begin_answer(struct transfer *t)
{
    long code = 0;
    curl_off_t length = -1;
    t->began = true;
    t->library.curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &code);
    t->library.curl_easy_getinfo(t->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    t->useless = code != HTTP_OK && !(code == HTTP_PARTIAL && t->range == t->begin);
    if (t->useless)
        return true;
    if (code == HTTP_OK)
        t->begin = 0;
    t->done = t->begin;
    if (length > 0 && (uint64_t)length <= UINT64_MAX - t->begin)
        t->total = t->begin + (uint64_t)length;
    if (too_large(t, t->total))
        return false;
    snprintf(t->fetch->validator, sizeof(t->fetch->validator), "%s",
             t->strong[0] != '\0' ? t->strong : t->date);
    if (ftruncate(t->fetch->fd, (off_t)t->begin) != 0 ||
        lseek(t->fetch->fd, (off_t)t->begin, SEEK_SET) < 0)
        return error_set_errno(&t->error, errno, "cannot write what comes");
    return true;
}

static size_t on_bytes(char *bytes, size_t one, size_t size, void *opaque)
{
    struct transfer *t = opaque;
    (void)one;
    if (!t->began && !begin_answer(t))
        return 0;
    if (t->useless)
        return size;
    if (too_large(t, t->done + size))
        return 0;
    for (size_t done = 0; done < size;) {
        ssize_t count = write(t->fetch->fd, bytes + done, size - done);
        if (count < 0 && errno != EINTR) {
            error_set_errno(&t->error, errno, "cannot write what comes");
            return 0;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    t->done += size;
    if (t->fetch->step != NULL)
        t->fetch->step(t->fetch->opaque, t->done, t->total);
    return size;
}

/* ---- one request ---- */

static struct curl_slist *make_headers(struct transfer *t)
{
    char line[FETCH_MAX_VALIDATOR + 32];
    if (t->begin == 0)
        return NULL;
    snprintf(line, sizeof(line), "Range: bytes=%llu-", (unsigned long long)t->begin);
    struct curl_slist *headers = t->library.curl_slist_append(NULL, line);
    snprintf(line, sizeof(line), "If-Range: %s", t->fetch->validator);
    return t->library.curl_slist_append(headers, line);
}

static CURLcode request(struct transfer *t)
{
    const struct library *library = &t->library;
    const char *url = t->fetch->url;
    struct curl_slist *headers = make_headers(t);
    bool secure = strncasecmp(url, "https:", 6) == 0;
    CURL *curl = t->curl = library->curl_easy_init();
    t->began = t->useless = false;
    t->range = UINT64_MAX;
    t->total = 0;
    library->curl_easy_setopt(curl, CURLOPT_URL, url);
    library->curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    library->curl_easy_setopt(curl, CURLOPT_USERAGENT, "trapeze/" TRAPEZE_VERSION);
    library->curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    library->curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    library->curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)REDIRECTS);
    library->curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    library->curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
    library->curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    library->curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, (long)SLOWEST);
    library->curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SLOW_S);
    library->curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    library->curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    library->curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    library->curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    CURLcode result = library->curl_easy_perform(curl);
    library->curl_slist_free_all(headers);
    return result;
}

/* 0: it is all there; 1: again; -1: err. */
static int judge(struct transfer *t, CURLcode result, struct error **err)
{
    long code = 0;
    t->library.curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &code);
    if (t->error != NULL) {
        error_propagate(err, t->error);
        t->error = NULL;
        return -1;
    }
    if (result == CURLE_OK && !t->began && code == HTTP_OK && !begin_answer(t)) /* an empty file */
        return error_propagate(err, t->error), t->error = NULL, -1;
    if (result == CURLE_OK &&
        (code == HTTP_UNSATISFIABLE || (code == HTTP_PARTIAL && t->useless))) {
        t->fetch->validator[0] = '\0'; /* it is not what it was */
        error_set(err, ERROR_HOST, "the server gives another part than it was asked for");
        return 1;
    }
    if (result == CURLE_OK && code != HTTP_OK && code != HTTP_PARTIAL) {
        error_set(err, ERROR_HOST, "the server answers with status %ld", code);
        return -1;
    }
    if (result == CURLE_OK)
        return 0;
    error_set(err, ERROR_HOST, "%s",
              result == CURLE_TOO_MANY_REDIRECTS ? "the server redirects in a circle"
                                                 : t->library.curl_easy_strerror(result));
    return t->began && !t->useless ? 1 : -1;
}

bool fetch(struct fetch *fetch, struct error **err)
{
    struct transfer t = {.fetch = fetch};
    int verdict = load(&t.library, err) ? 1 : -1;
    uint64_t most = 0; /* that there ever was of it */
    for (int tries = 0; verdict == 1 && tries < TRIES; tries++) {
        struct stat status;
        struct error *why = NULL;
        if (fstat(fetch->fd, &status) != 0)
            return error_set_errno(err, errno, "cannot look at what has come");
        t.begin = fetch->validator[0] != '\0' ? (uint64_t)status.st_size : 0;
        if (most == 0)
            most = t.begin;
        verdict = judge(&t, request(&t), &why);
        t.library.curl_easy_cleanup(t.curl);
        if (t.began && !t.useless && t.done >= most + WORTH_A_TRY) {
            most = t.done;
            tries = -1;
        }
        if (verdict == 0 || (verdict == 1 && tries < TRIES - 1))
            error_free(why);
        else
            error_propagate(err, why);
    }
    return verdict == 0;
}
