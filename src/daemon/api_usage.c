/* SPDX-License-Identifier: MIT
 *
 * GET /v1/usage: what every machine that runs uses, asked of all workers at once.
 */
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"
#include "daemon/machine.h"

enum { ANSWER_S = 2 }; /* a worker that does not answer is listed without figures */

/* One call's work: `waiting` answers are still to come. */
struct gathering {
    struct api_call *call;
    json_t *rows;
    unsigned waiting;
};

struct asked {
    struct gathering *gathering;
    json_t *row;
};

static void finish_if_complete(struct gathering *gathering)
{
    struct timespec now;
    if (--gathering->waiting > 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    api_reply(gathering->call,
              json_pack("{s:I, s:o}", "time-ns", (json_int_t)now.tv_sec * 1000000000 + now.tv_nsec,
                        "instances", gathering->rows));
    free(gathering);
}

/* Of what a worker says, the numbers that we know. */
static void on_usage(void *opaque, const json_t *result, const char *error)
{
    static const char *const names[] = {"cpus",
                                        "memory",
                                        "resident",
                                        "cpu-ns",
                                        "disk-reads",
                                        "disk-writes",
                                        "disk-read-bytes",
                                        "disk-written-bytes",
                                        "net-sent-bytes",
                                        "net-received-bytes"};
    struct asked *asked = opaque;
    (void)error;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        json_t *value = json_object_get(result, names[i]);
        if (json_is_integer(value) && json_integer_value(value) >= 0)
            json_object_set(asked->row, names[i], value);
    }
    finish_if_complete(asked->gathering);
    free(asked);
}

static void ask(struct gathering *gathering, const char *name)
{
    struct daemon *daemon = gathering->call->daemon;
    struct asked *asked = alloc_zeroed(1, sizeof(*asked));
    json_t *about = json_object();
    catalogue_describe(daemon->catalogue, name, about);
    asked->gathering = gathering;
    asked->row = json_pack("{s:s, s:s}", "name", name, "state", machine_state(daemon, name));
    if (json_is_integer(json_object_get(about, "started")))
        json_object_set(asked->row, "started", json_object_get(about, "started"));
    json_decref(about);
    json_array_append_new(gathering->rows, asked->row);
    gathering->waiting++;
    machine_ask(daemon, name, "usage", ANSWER_S, on_usage, asked);
}

static void run(struct api_call *call)
{
    struct error *error = NULL;
    char **names = store_list(&call->daemon->store, &error);
    if (names == NULL) {
        api_fail(call, 0, error);
        return;
    }
    struct gathering *gathering = alloc_zeroed(1, sizeof(*gathering));
    *gathering = (struct gathering){.call = call, .rows = json_array(), .waiting = 1};
    for (size_t i = 0; names[i] != NULL; i++)
        if (machine_is_linked(call->daemon, names[i]) && !machine_is_ending(call->daemon, names[i]))
            ask(gathering, names[i]);
    store_list_free(names);
    finish_if_complete(gathering);
}

const struct api_verb api_usage = {
    .id = "usage",
    .method = "GET",
    .path = "/v1/usage",
    .summary =
        "What each machine that runs uses: counters since its start, and the time of this host",
    .answer =
        "{\"type\": \"object\", \"required\": [\"time-ns\", \"instances\"], \"properties\": "
        "{\"time-ns\": {\"type\": \"integer\", \"description\": \"of a clock that only goes on\"}, "
        "\"instances\": {\"type\": \"array\", \"items\": {\"type\": \"object\", \"required\": "
        "[\"name\", \"state\"], \"properties\": {\"name\": {\"type\": \"string\"}, \"state\": "
        "{\"type\": \"string\"}, \"started\": {\"type\": \"integer\"}, \"cpus\": {\"type\": "
        "\"integer\"}, \"memory\": {\"type\": \"integer\", \"description\": \"the guest's, "
        "bytes\"}, "
        "\"resident\": {\"type\": \"integer\", \"description\": \"of this host's memory, bytes\"}, "
        "\"cpu-ns\": {\"type\": \"integer\", \"description\": \"of this host's processors\"}, "
        "\"disk-reads\": {\"type\": \"integer\"}, \"disk-writes\": {\"type\": \"integer\"}, "
        "\"disk-read-bytes\": {\"type\": \"integer\"}, \"disk-written-bytes\": {\"type\": "
        "\"integer\"}, \"net-sent-bytes\": {\"type\": \"integer\"}, \"net-received-bytes\": "
        "{\"type\": \"integer\"}}}}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
