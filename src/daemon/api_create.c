/* SPDX-License-Identifier: MIT
 *
 * POST /v1/instances: an instance from a .vmx text and files of the host.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "daemon/api.h"
#include "daemon/job.h"
#include "daemon/owner.h"

static bool take_files(const json_t *list, struct instance_file *files, struct error **err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *file = json_array_get(list, i);
        files[i].source = json_string_value(json_object_get(file, "source"));
        files[i].name = json_string_value(json_object_get(file, "name"));
        if (files[i].source == NULL || files[i].source[0] != '/' || files[i].name == NULL)
            return error_set(err, ERROR_USAGE, "a file has an absolute source and a name");
    }
    return true;
}

static bool make(struct daemon *daemon, const char *template, struct instance_plan *plan,
                 struct error **err)
{
    struct instance instance;
    if (template == NULL)
        return instance_create(&daemon->store, plan, err);
    if (!instance_open(&instance, &daemon->store, template, err))
        return false;
    bool good = true;
    if (!instance.is_template) {
        good = error_set(err, ERROR_USAGE, "'%s' is no template", template);
        error_hint(err, "Make it one: trapeze template %s", template);
    }
    good = good && instance_lock_shared(&instance, err) && instance_clone(&instance, plan, err);
    instance_close(&instance);
    return good;
}

static json_t *create(struct daemon *daemon, const char *name, const json_t *arguments,
                      struct error **err)
{
    const json_t *vmx = json_object_get(arguments, "vmx"),
                 *list = json_object_get(arguments, "files");
    const char *template = json_string_value(json_object_get(arguments, "template"));
    size_t count = json_array_size(list);
    struct instance_file *files = alloc_zeroed(count, sizeof(*files));
    struct machine_config config;
    struct text *text =
        vmx != NULL ? text_parse(json_string_value(vmx), json_string_length(vmx), "vmx", err)
                    : NULL;
    machine_config_init(&config);
    bool good = (vmx == NULL || text != NULL) && take_files(list, files, err);
    if (vmx != NULL)
        good = good && vmx_read(text, &config, NULL, err) && machine_config_check(&config, err);
    if (good && vmx != NULL && config.owner == NULL) {
        char owner[OWNER_MAX];
        owner_name(geteuid(), owner);
        text_set(text, "trapeze.owner", owner);
    }
    struct instance_plan plan = {
        .name = name,
        .text = text,
        .files = files,
        .file_count = count,
        .expires =
            vmx != NULL ? config.expires : json_string_value(json_object_get(arguments, "expires")),
        .linked = template != NULL,
        .step = job_step,
        .opaque = daemon,
    };
    good = good && make(daemon, template, &plan, err);
    machine_config_clear(&config);
    text_free(text);
    free(files);
    return good ? json_pack("{s:s}", "name", name) : NULL;
}

static bool take_name(const char *name, char taken[INSTANCE_MAX_NAME + 1], struct error **err)
{
    if (name == NULL || !instance_name_check(name, err))
        return name == NULL;
    snprintf(taken, INSTANCE_MAX_NAME + 1, "%s", name);
    return true;
}

static void run(struct api_call *call)
{
    const char *name, *vmx = NULL, *template = NULL, *expires = NULL;
    int64_t moment;
    json_t *files = NULL;
    struct error *error = NULL;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s, s?s, s?o, s?s, s?s}", "name", &name,
                       "vmx", &vmx, "files", &files, "template", &template, "expires",
                       &expires) != 0 ||
        (files != NULL && !json_is_array(files)) || (vmx == NULL && template == NULL) ||
        (expires != NULL && (vmx != NULL || !machine_parse_time(expires, &moment))))
        api_refuse(call, 400,
                   "an instance is made of a name, a vmx or a template or both, and perhaps files; "
                   "without a vmx perhaps of 'expires', a moment such as 2026-12-24T18:00:00Z");
    else if (!take_name(name, call->name, &error) || !take_name(template, call->template, &error))
        api_fail(call, 400, error);
    else if (template != NULL && strcmp(name, template) == 0)
        api_refuse(call, 400, "an instance cannot be its own template");
    else if (api_take(call))
        api_job(call, create);
}

const struct api_verb api_create = {
    .id = "create",
    .method = "POST",
    .path = "/v1/instances",
    .summary = "Make an instance",
    .body = "{\"type\": \"object\", \"required\": [\"name\"], "
            "\"additionalProperties\": false, \"properties\": {\"name\": {\"type\": "
            "\"string\"}, \"vmx\": {\"type\": \"string\", \"description\": \"its .vmx file; "
            "file names are relative to its folder\"}, \"files\": {\"type\": \"array\", "
            "\"description\": \"copied into its folder\", \"items\": {\"type\": \"object\", "
            "\"required\": [\"source\", \"name\"], \"properties\": {\"source\": {\"type\": "
            "\"string\"}, \"name\": {\"type\": \"string\"}}}}, \"template\": {\"type\": "
            "\"string\", \"description\": \"it becomes a linked clone of this one; without vmx "
            "with the same description. Files of the template's in a vmx are absolute\"}, "
            "\"expires\": " API_BODY_EXPIRES "}}",
    .answer = API_ANSWER_NAME,
    .status = 201,
    .run = run,
};
