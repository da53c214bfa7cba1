/* SPDX-License-Identifier: MIT
 *
 * GET /v1/instances. One that cannot be read is listed with what is wrong with it.
 */
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/catalogue.h"

static void run(struct api_call *call)
{
    struct error *error = NULL;
    struct daemon *daemon = call->daemon;
    char **names = store_list(&daemon->store, &error);
    if (names == NULL) {
        api_fail(call, 0, error);
        return;
    }
    catalogue_sync(daemon->catalogue, &daemon->store);
    json_t *list = json_array();
    for (size_t i = 0; names[i] != NULL; i++) {
        json_t *row = api_describe(daemon, names[i], &error);
        if (row == NULL)
            row = json_pack("{s:s, s:s, s:o}", "name", names[i], "state", "broken", "error",
                            api_text(error_message(error)));
        json_array_append_new(list, row);
        error_free(error);
        error = NULL;
    }
    store_list_free(names);
    api_reply(call, json_pack("{s:o}", "instances", list));
}

const struct api_verb api_list = {
    .id = "list",
    .method = "GET",
    .path = "/v1/instances",
    .summary = "All instances and templates, by name",
    .answer = "{\"type\": \"object\", \"required\": [\"instances\"], \"properties\": "
              "{\"instances\": {\"type\": \"array\", \"items\": {\"anyOf\": [{\"$ref\": "
              "\"#/components/schemas/Instance\"}, {\"type\": \"object\", \"required\": "
              "[\"name\", \"state\", \"error\"], \"properties\": {\"name\": {\"type\": "
              "\"string\"}, \"state\": {\"type\": \"string\", \"enum\": [\"broken\"]}, "
              "\"error\": {\"type\": \"string\"}}}]}}}}",
    .status = 200,
    .remote = true,
    .run = run,
};
