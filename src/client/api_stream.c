/* SPDX-License-Identifier: MIT
 *
 * See api_stream.h. Both ways in chunks (RFC 9112, 7.1), whose end tells what is complete from what
 * broke off.
 */
#include "client/api_stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "client/api.h"

enum { BUFFER_BYTES = 128 << 10, LINE_MAX_BYTES = 32 << 10, HEADERS_MAX = 100 };

struct stream {
    int fd;
    char *buffer;
    size_t at, end;
};

static bool broke_off(struct error **err)
{
    return error_set(err, ERROR_HOST, "the daemon broke off in the middle; its log may say why");
}

static bool fill(struct stream *stream)
{
    ssize_t count;
    do
        count = recv(stream->fd, stream->buffer, BUFFER_BYTES, 0);
    while (count < 0 && errno == EINTR);
    stream->at = 0;
    stream->end = count > 0 ? (size_t)count : 0;
    return count > 0;
}

/* Without its end; false: it is too long, or the stream is over. */
static bool read_line(struct stream *stream, char line[LINE_MAX_BYTES])
{
    for (size_t length = 0; length < LINE_MAX_BYTES;) {
        if (stream->at == stream->end && !fill(stream))
            return false;
        char byte = stream->buffer[stream->at++];
        if (byte == '\n') {
            line[length > 0 && line[length - 1] == '\r' ? length - 1 : length] = '\0';
            return true;
        }
        line[length++] = byte;
    }
    return false;
}

struct head {
    int status;
    bool chunked;
    uint64_t length; /* of the body, unless chunked */
    char *about;
};

static bool read_head(struct stream *stream, struct head *head)
{
    static const char about[] = "Trapeze-About:", length[] = "Content-Length:";
    char *line = alloc_zeroed(1, LINE_MAX_BYTES);
    *head = (struct head){0};
    bool good = read_line(stream, line) && sscanf(line, "HTTP/1.%*1[01] %3d", &head->status) == 1;
    for (unsigned i = 0; good && i < HEADERS_MAX; i++) {
        good = read_line(stream, line);
        if (line[0] == '\0')
            break;
        if (strcasecmp(line, "Transfer-Encoding: chunked") == 0)
            head->chunked = true;
        else if (strncasecmp(line, length, sizeof(length) - 1) == 0)
            head->length = strtoull(line + sizeof(length) - 1, NULL, 10);
        else if (strncasecmp(line, about, sizeof(about) - 1) == 0 && head->about == NULL)
            head->about = alloc_string(line + sizeof(about) - 1);
    }
    free(line);
    return good;
}

/* `size` bytes, or to the end of what is there. */
static bool take_some(struct stream *stream, uint64_t size, const struct api_taker *taker,
                      struct error **err)
{
    while (size > 0) {
        if (stream->at == stream->end && !fill(stream))
            return broke_off(err);
        size_t have = stream->end - stream->at, count = have < size ? have : (size_t)size;
        if (!taker->take(taker->opaque, stream->buffer + stream->at, count, err))
            return false;
        stream->at += count;
        size -= count;
    }
    return true;
}

static bool take_chunks(struct stream *stream, const struct api_taker *taker, struct error **err)
{
    char *line = alloc_zeroed(1, LINE_MAX_BYTES), *end;
    bool good = true, last = false;
    while (good && !last) {
        good = read_line(stream, line) || broke_off(err);
        uint64_t size = good ? strtoull(line, &end, 16) : 0;
        if (good && end == line)
            good = broke_off(err);
        last = size == 0;
        good = good && take_some(stream, size, taker, err) &&
               (read_line(stream, line) || broke_off(err));
    }
    free(line);
    return good;
}

struct text {
    char *bytes;
    size_t size;
};

static bool take_text(void *opaque, const void *bytes, size_t size, struct error **err)
{
    enum { TEXT_MAX = 16 << 20 };
    struct text *text = opaque;
    if (text->size + size > TEXT_MAX)
        return error_set(err, ERROR_HOST, "the daemon's answer is too long");
    text->bytes = alloc_resize(text->bytes, text->size + size + 1, 1);
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    text->bytes[text->size] = '\0';
    return true;
}

static char *take_answer(struct stream *stream, const struct head *head, struct error **err)
{
    struct text text = {alloc_string(""), 0};
    const struct api_taker taker = {.take = take_text, .opaque = &text};
    if (head->chunked ? take_chunks(stream, &taker, err)
                      : take_some(stream, head->length, &taker, err))
        return text.bytes;
    free(text.bytes);
    return NULL;
}

static bool begin(struct stream *stream, const struct client_remote *at, const char *method,
                  const char *path, const char *headers, struct error **err)
{
    *stream = (struct stream){.fd = api_begin_at(at, method, path, headers, err)};
    stream->buffer = alloc_zeroed(1, BUFFER_BYTES);
    return stream->fd >= 0;
}

static void finish(struct stream *stream)
{
    if (stream->fd >= 0)
        close(stream->fd);
    free(stream->buffer);
}

bool api_download(const char *path, const struct api_taker *taker, int *status, char **refusal,
                  struct error **err)
{
    struct stream stream;
    struct head head = {0};
    *status = 0;
    *refusal = NULL;
    bool good = begin(&stream, NULL, "GET", path, "", err);
    if (good && !fill(&stream) && api_may_ask_again(NULL, "GET", 0)) {
        finish(&stream);
        good = begin(&stream, NULL, "GET", path, "", err);
    }
    good = good && (read_head(&stream, &head) || broke_off(err));
    if (good && head.status / 100 != 2) {
        *refusal = take_answer(&stream, &head, err);
        good = *refusal != NULL;
    } else if (good) {
        good = (head.chunked || broke_off(err)) &&
               taker->about(taker->opaque, head.about != NULL ? head.about : "", err) &&
               take_chunks(&stream, taker, err);
    }
    *status = head.status;
    free(head.about);
    finish(&stream);
    return good;
}

/* False: `fd` could not be read. A daemon that does not listen any more has something to say. */
static bool send_body(struct stream *stream, int fd, void (*sent)(void *opaque, uint64_t bytes),
                      void *opaque, struct error **err)
{
    uint64_t total = 0;
    for (bool listens = true; listens;) {
        char size[24];
        ssize_t count = read(fd, stream->buffer, BUFFER_BYTES);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return error_set_errno(err, errno, "cannot read what is to be sent");
        int length = snprintf(size, sizeof(size), "%zx\r\n", (size_t)count);
        listens = api_send(stream->fd, size, (size_t)length) &&
                  api_send(stream->fd, stream->buffer, (size_t)count) &&
                  api_send(stream->fd, "\r\n", 2) && count > 0;
        total += (uint64_t)count;
        if (sent != NULL)
            sent(opaque, total);
    }
    return true;
}

char *api_upload(const char *path, int fd, void (*sent)(void *opaque, uint64_t bytes), void *opaque,
                 int *status, struct error **err)
{
    return api_upload_at(NULL, path, fd, sent, opaque, status, err);
}

char *api_upload_at(const struct client_remote *at, const char *path, int fd,
                    void (*sent)(void *opaque, uint64_t bytes), void *opaque, int *status,
                    struct error **err)
{
    struct stream stream;
    struct head head = {0};
    char *answer = NULL;
    if (begin(&stream, at, "POST", path,
              "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n", err) &&
        send_body(&stream, fd, sent, opaque, err) && (read_head(&stream, &head) || broke_off(err)))
        answer = take_answer(&stream, &head, err);
    *status = head.status;
    free(head.about);
    finish(&stream);
    return answer;
}
