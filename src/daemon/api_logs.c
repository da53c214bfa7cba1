/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}/logs: what the guest printed, or what its worker said.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/api.h"

enum { LOG_MAX = 1 << 20 };

/* As text: bytes beyond ASCII as U+0080..U+00FF, as the worker's own verb has it. */
static json_t *as_text(const unsigned char *bytes, size_t size)
{
    char *text = alloc_zeroed(2, size + 1);
    size_t length = 0;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] >= 0x80)
            text[length++] = (char)(0xc0 | bytes[i] >> 6);
        text[length++] = (char)(bytes[i] >= 0x80 ? 0x80 | (bytes[i] & 0x3f) : bytes[i]);
    }
    json_t *value = json_stringn(text, length);
    free(text);
    return value;
}

static json_t *read_tail(const struct instance *instance, const char *name)
{
    int fd = openat(instance->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    unsigned char *bytes = alloc_zeroed(1, LOG_MAX);
    ssize_t count = fd >= 0 ? pread(fd, bytes, LOG_MAX, size > LOG_MAX ? size - LOG_MAX : 0) : 0;
    if (fd >= 0)
        close(fd);
    json_t *text = as_text(bytes, count > 0 ? (size_t)count : 0);
    free(bytes);
    return text;
}

static void run(struct api_call *call)
{
    const char *source = api_query(call, "source");
    struct instance instance;
    bool worker = source != NULL && strcmp(source, "worker") == 0;
    if (source != NULL && !worker && strcmp(source, "console") != 0) {
        api_refuse(call, 400, "source is 'console' or 'worker'");
        return;
    }
    if (!api_open(call, &instance))
        return;
    json_t *text = read_tail(&instance, worker ? "worker.log" : "console.log");
    instance_close(&instance);
    api_reply(call, json_pack("{s:o}", "text", text));
}

const struct api_verb api_logs = {
    .id = "logs",
    .method = "GET",
    .path = "/v1/instances/{name}/logs",
    .summary = "What the guest printed last, or what its worker said",
    .query = "[{\"name\": \"source\", \"in\": \"query\", \"schema\": {\"type\": \"string\", "
             "\"enum\": [\"console\", \"worker\"]}}]",
    .answer = "{\"type\": \"object\", \"required\": [\"text\"], \"properties\": {\"text\": "
              "{\"type\": \"string\"}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
