/* SPDX-License-Identifier: MIT
 *
 * GET /v1/prune.
 */
#include "daemon/api.h"
#include "daemon/prune.h"

enum { DAY_S = 86400, UNUSED_DAYS = 30, MAX_DAYS = 36500 };

static json_t *find(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    (void)name;
    return prune_find(&daemon->store,
                      json_integer_value(json_object_get(arguments, "unused")) * DAY_S, err);
}

static void run(struct api_call *call)
{
    long long days = api_query_number(call, "unused", UNUSED_DAYS);
    if (days < 0 || days > MAX_DAYS) {
        api_refuse(call, 400, "'unused' is a number of days");
        return;
    }
    call->kept = json_pack("{s:I}", "unused", (json_int_t)days);
    api_query_job(call, call->kept, find);
}

const struct api_verb api_prune = {
    .id = "prune",
    .method = "GET",
    .path = "/v1/prune",
    .summary = "What may be deleted: instances that have expired or that nobody has used for long, "
               "images that nothing needs",
    .query =
        "[{\"name\": \"unused\", \"in\": \"query\", \"description\": \"days without use, 30\", "
        "\"schema\": {\"type\": \"integer\"}}]",
    .answer =
        "{\"type\": \"object\", \"required\": [\"items\"], \"properties\": {\"items\": {\"type\": "
        "\"array\", \"items\": {\"type\": \"object\", \"required\": [\"kind\", \"name\", \"path\", "
        "\"why\", \"since\", \"size\"], \"properties\": {\"kind\": {\"type\": \"string\", "
        "\"enum\": "
        "[\"instance\", \"file\"]}, \"name\": {\"type\": \"string\"}, \"path\": {\"type\": "
        "\"string\"}, \"why\": {\"type\": \"string\", \"enum\": [\"expired\", \"unused\", "
        "\"orphaned\"]}, \"since\": {\"type\": \"integer\", \"description\": \"seconds since "
        "1970\"}, \"size\": {\"type\": \"integer\", \"description\": \"bytes\"}}}}, \"unknown\": "
        "{\"type\": \"string\", \"description\": \"why images were not looked for\"}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
