/* SPDX-License-Identifier: MIT
 *
 * GET /metrics, where Prometheus looks. Every worker is asked at once; who does not answer within
 * 5 s is down in this answer.
 */
#include <stdlib.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/http.h"
#include "daemon/machine.h"
#include "daemon/metrics.h"

enum { PATIENCE_S = 5 };

/* call->kept: {NAME: answer}; call->number: answers that are missing, and 1. */
struct question {
    struct api_call *call;
    char name[INSTANCE_MAX_NAME + 1];
};

static void answered(struct api_call *call)
{
    if (--call->number == 0)
        http_answer_text(call, call->verb->status, METRICS_TYPE,
                         metrics_write(call->daemon, call->kept));
}

static void on_answer(void *opaque, const json_t *result, const char *error)
{
    struct question *question = opaque;
    struct api_call *call = question->call;
    if (error == NULL)
        json_object_set_new(call->kept, question->name, json_deep_copy(result));
    free(question);
    answered(call);
}

static void add(void *opaque, const char *name)
{
    json_object_set_new(opaque, name, json_null());
}

static void run(struct api_call *call)
{
    json_t *names = json_object(), *value;
    const char *name;
    machine_each_linked(call->daemon, add, names);
    call->kept = json_deep_copy(names);
    call->number = 1;
    json_object_foreach(names, name, value)
    {
        struct question *question = alloc_zeroed(1, sizeof(*question));
        question->call = call;
        snprintf(question->name, sizeof(question->name), "%s", name);
        call->number++;
        machine_ask(call->daemon, name, "metrics", PATIENCE_S, on_answer, question);
    }
    json_decref(names);
    answered(call);
}

const struct api_verb api_metrics = {
    .id = "metrics",
    .method = "GET",
    .path = "/metrics",
    .summary = "What is counted, in Prometheus' text format",
    .answer = "{\"type\": \"string\"}",
    .type = METRICS_TYPE,
    .status = 200,
    .remote = true,
    .run = run,
};
