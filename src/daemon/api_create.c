/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances: an instance from a .vmx text and files of the host.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/machine.h"
#include "daemon/owner.h"

static json_t *create(struct daemon *daemon, const char *name, const json_t *arguments,
                      struct error **err)
{
    const char *vmx = json_string_value(json_object_get(arguments, "vmx"));
    const json_t *list = json_object_get(arguments, "files");
    size_t count = json_array_size(list);
    struct instance_file *files = alloc_zeroed(count, sizeof(*files));
    struct machine_config config;
    struct text *text =
        text_parse(vmx, json_string_length(json_object_get(arguments, "vmx")), "vmx", err);
    machine_config_init(&config);
    bool good =
        text != NULL && vmx_read(text, &config, NULL, err) && machine_config_check(&config, err);
    if (good && config.owner == NULL) {
        char owner[OWNER_MAX];
        owner_name(geteuid(), owner);
        text_set(text, "trapeze.owner", owner);
    }
    for (size_t i = 0; i < count && good; i++) {
        const json_t *file = json_array_get(list, i);
        files[i].source = json_string_value(json_object_get(file, "source"));
        files[i].name = json_string_value(json_object_get(file, "name"));
        if (files[i].source == NULL || files[i].source[0] != '/' || files[i].name == NULL)
            good = error_set(err, ERROR_USAGE, "a file has an absolute source and a name");
    }
    good = good && instance_create(&daemon->store, name, text, files, count, err);
    machine_config_clear(&config);
    text_free(text);
    free(files);
    return good ? json_pack("{s:s}", "name", name) : NULL;
}

static void run(struct api_call *call)
{
    const char *name, *vmx;
    json_t *files = NULL;
    json_error_t where;
    struct error *error = NULL;
    if (json_unpack_ex(call->body, &where, JSON_STRICT, "{s:s, s:s, s?o}", "name", &name, "vmx",
                       &vmx, "files", &files) != 0 ||
        (files != NULL && !json_is_array(files))) {
        api_refuse(call, 400, "an instance is made of a name, a vmx and perhaps files");
        return;
    }
    if (!instance_name_check(name, &error)) {
        api_fail(call, 400, error);
        return;
    }
    snprintf(call->name, sizeof(call->name), "%s", name);
    if (api_take(call))
        api_job(call, create);
}

const struct api_verb api_create = {
    .id = "create",
    .method = "POST",
    .path = "/v1/instances",
    .summary = "Make an instance",
    .body = "{\"type\": \"object\", \"required\": [\"name\", \"vmx\"], "
            "\"additionalProperties\": false, \"properties\": {\"name\": {\"type\": "
            "\"string\"}, \"vmx\": {\"type\": \"string\", \"description\": \"its .vmx file; "
            "file names are relative to its folder\"}, \"files\": {\"type\": \"array\", "
            "\"description\": \"copied into its folder\", \"items\": {\"type\": \"object\", "
            "\"required\": [\"source\", \"name\"], \"properties\": {\"source\": {\"type\": "
            "\"string\"}, \"name\": {\"type\": \"string\"}}}}}}",
    .answer = API_ANSWER_NAME,
    .status = 201,
    .run = run,
};
