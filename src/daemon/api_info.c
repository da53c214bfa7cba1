/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances/{name}. A machine that runs is asked what it has used.
 */
#include "base/bits.h"
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"
#include "daemon/machine.h"

enum { ANSWER_S = 2 }; /* one that says nothing is told of without */

/* A worker is a stranger: what is no number is not passed on. */
static void add_usage(json_t *answer, const json_t *result)
{
    static const char *const names[] = {"used-ns", "held-ns", "waited-ns"};
    json_t *cpu = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        json_t *value = json_object_get(result, names[i]);
        if (json_is_integer(value))
            json_object_set(cpu, names[i], value);
    }
    json_object_set_new(answer, "cpu", cpu);
}

static void on_usage(void *opaque, const json_t *result, const char *refusal)
{
    struct api_call *call = opaque;
    struct error *error = NULL;
    struct instance instance;
    (void)refusal;
    json_t *answer = api_describe(call->daemon, call->name, &error);
    if (answer != NULL && result != NULL)
        add_usage(answer, result);
    if (answer != NULL && call->kept != NULL)
        json_object_set(answer, "clones", call->kept);
    if (answer != NULL) {
        api_reply(call, answer);
    } else if (api_open(call, &instance)) { /* it is not that it is gone */
        instance_close(&instance);
        api_fail(call, 500, error);
    } else {
        error_free(error);
    }
}

/* NULL: it is no template, or nobody can tell. */
static json_t *clones_of(const struct instance *instance)
{
    char **names = instance->is_template ? instance_clones(instance, NULL) : NULL;
    json_t *list = names != NULL ? json_array() : NULL;
    for (size_t i = 0; names != NULL && names[i] != NULL; i++)
        json_array_append_new(list, json_string(names[i]));
    store_list_free(names);
    return list;
}

static void run(struct api_call *call)
{
    struct instance instance;
    if (!api_open(call, &instance))
        return;
    call->kept = clones_of(&instance);
    instance_close(&instance);
    catalogue_sync(call->daemon->catalogue, &call->daemon->store);
    if (machine_is_linked(call->daemon, call->name))
        machine_ask(call->daemon, call->name, "cpu", ANSWER_S, on_usage, call);
    else
        on_usage(call, NULL, NULL);
}

const struct api_verb api_info = {
    .id = "info",
    .method = "GET",
    .path = "/v1/instances/{name}",
    .summary = "One instance",
    .answer = "{\"$ref\": \"#/components/schemas/Instance\"}",
    .status = 200,
    .remote = true,
    .run = run,
};
