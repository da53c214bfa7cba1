/* SPDX-License-Identifier: MIT
 *
 * POST /v1/prune: the images among what GET names. Instances have a DELETE of their own.
 */
#include "daemon/api.h"
#include "daemon/prune.h"

static json_t *work(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err)
{
    (void)name;
    return prune_files(&daemon->store, json_object_get(arguments, "files"), err);
}

static void run(struct api_call *call)
{
    json_t *files;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:o}", "files", &files) != 0 ||
        !json_is_array(files))
        api_refuse(call, 400, "'files' is missing: paths");
    else
        api_query_job(call, call->body, work);
}

const struct api_verb api_prune_files = {
    .id = "prune-files",
    .method = "POST",
    .path = "/v1/prune",
    .summary = "Delete images that nothing needs",
    .body = "{\"type\": \"object\", \"required\": [\"files\"], \"additionalProperties\": false, "
            "\"properties\": {\"files\": {\"type\": \"array\", \"items\": {\"type\": "
            "\"string\"}, \"description\": \"paths, as GET names them\"}}}",
    .answer = "{\"type\": \"object\", \"required\": [\"deleted\", \"kept\"], \"properties\": "
              "{\"deleted\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}}, \"kept\": "
              "{\"type\": \"array\", \"items\": {\"type\": \"string\"}, \"description\": \"what is "
              "no longer one of them\"}}}",
    .status = 200,
    .run = run,
};
