/* SPDX-License-Identifier: MIT
 *
 * See api.h.
 */
#include "daemon/api.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"
#include "build.h"
#include "daemon/catalogue.h"
#include "daemon/http.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/migrate_out.h"
#include "daemon/owner.h"
#include "daemon/restart.h"

#define X(name) extern const struct api_verb name;
#include "daemon/verbs.inc"
#undef X

enum { END_S = 30 };

static const struct api_verb *const verbs[] = {
#define X(name) &name,
#include "daemon/verbs.inc"
#undef X
};

/* ---- answers ---- */

void api_reply(struct api_call *call, json_t *answer)
{
    http_answer(call, call->verb->status, answer);
}

json_t *api_text(const char *bytes)
{
    json_t *text = json_string(bytes);
    if (text != NULL)
        return text;
    char *ascii = alloc_string(bytes);
    for (char *at = ascii; *at != '\0'; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    text = json_string(ascii);
    free(ascii);
    return text;
}

void api_refuse(struct api_call *call, int status, const char *sentence)
{
    http_answer(call, status, json_pack("{s:o}", "error", api_text(sentence)));
}

void api_fail(struct api_call *call, int status, struct error *error)
{
    if (status == 0)
        status = error_kind(error) == ERROR_USAGE ? 400 : 500;
    api_refuse(call, status, error_message(error));
    error_free(error);
}

const char *api_query(const struct api_call *call, const char *name)
{
    return http_query(call, name);
}

long long api_query_number(const struct api_call *call, const char *name, long long standard)
{
    const char *text = api_query(call, name);
    char *end;
    long long number = text != NULL ? strtoll(text, &end, 10) : 0;
    return text != NULL && *text != '\0' && *end == '\0' ? number : standard;
}

/* ---- what verbs have in common ---- */

bool api_open(struct api_call *call, struct instance *instance)
{
    struct error *error = NULL;
    if (instance_open(instance, &call->daemon->store, call->name, &error))
        return true;
    api_fail(call, error_kind(error) == ERROR_USAGE ? 404 : 500, error);
    return false;
}

bool api_take(struct api_call *call)
{
    struct error *error = NULL;
    if (machine_take(call->daemon, call->name, call->shared, &error)) {
        if (call->template[0] == '\0' || machine_take(call->daemon, call->template, true, &error))
            return true;
        machine_give_back(call->daemon, call->name, call->shared);
    }
    api_fail(call, 409, error);
    return false;
}

static void give_back(struct api_call *call)
{
    machine_give_back(call->daemon, call->name, call->shared);
    if (call->template[0] != '\0')
        machine_give_back(call->daemon, call->template, true);
}

bool api_take_existing(struct api_call *call)
{
    struct instance instance;
    if (!api_open(call, &instance))
        return false;
    instance_close(&instance);
    return api_take(call);
}

static void job_done(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    give_back(call);
    catalogue_sync(call->daemon->catalogue, &call->daemon->store);
    if (result == NULL) {
        api_refuse(call, error_kind(error) == ERROR_USAGE ? 400 : 500, error_message(error));
        return;
    }
    daemon_event(call->daemon, call->name, call->verb->id, json_deep_copy(result));
    api_reply(call, json_deep_copy(result));
}

static void on_ended(void *opaque, const json_t *end)
{
    struct api_call *call = opaque;
    (void)end;
    job_start(call->daemon, call->name, call->body, call->job, job_done, call);
}

void api_job(struct api_call *call, job_fn *fn)
{
    call->job = fn;
    if (machine_is_ending(call->daemon, call->name)) /* a matter of milliseconds */
        machine_await_end(call->daemon, call->name, END_S, on_ended, call);
    else
        job_start(call->daemon, call->name, call->body, fn, job_done, call);
}

static void query_done(void *opaque, const json_t *result, const struct error *error)
{
    struct api_call *call = opaque;
    if (result != NULL)
        api_reply(call, json_deep_copy(result));
    else
        api_refuse(call, 500, error_message(error));
}

void api_query_job(struct api_call *call, const json_t *arguments, job_fn *fn)
{
    job_start(call->daemon, "", arguments, fn, query_done, call);
}

void api_change(struct api_call *call, job_fn *fn)
{
    if (!api_take_existing(call))
        return;
    if (machine_is_linked(call->daemon, call->name) &&
        !machine_is_ending(call->daemon, call->name)) {
        give_back(call);
        api_refuse(call, 409, "the instance is running. Stop it first");
    } else {
        api_job(call, fn);
    }
}

void api_change_to(struct api_call *call, job_fn *fn)
{
    const char *to;
    if (json_unpack_ex(call->body, NULL, JSON_STRICT, "{s:s}", "to", &to) != 0)
        api_refuse(call, 400, "'to' is missing: the new name");
    else
        api_change(call, fn);
}

/* Where a program here reaches the guest's vsock ports. */
static void describe_vsock(const struct machine_config *config, const char *folder, json_t *answer)
{
    char *path = NULL;
    if (config->vsock_cid == 0)
        return;
    if (config->vsock_socket != NULL)
        json_object_set_new(answer, "vsock", api_text(config->vsock_socket));
    else if (asprintf(&path, "%s/vsock.sock", folder) > 0)
        json_object_set_new(answer, "vsock", api_text(path));
    free(path);
}

/* What 'set' may have changed, and whose it is. */
static void describe_policy(const struct machine_config *config, json_t *answer)
{
    char name[OWNER_MAX];
    owner_name((uid_t)json_integer_value(json_object_get(answer, "uid")), name);
    json_object_set_new(answer, "owner", api_text(config->owner != NULL ? config->owner : name));
    json_object_set_new(answer, "max-cpus", json_integer(machine_max_cpus(config)));
    json_object_set_new(answer, "cpu-weight", json_integer(config->cpu_weight));
    json_object_set_new(answer, "cpu-cap", json_integer(config->cpu_cap));
    json_object_set_new(answer, "memory-limit", json_integer((json_int_t)config->balloon_size));
}

static void describe_use(const struct instance *instance, const struct machine_config *config,
                         json_t *answer)
{
    struct instance_usage usage;
    int64_t expires;
    instance_usage(instance, &usage);
    json_object_set_new(answer, "disk-used", json_integer((json_int_t)usage.bytes));
    if (usage.used != 0)
        json_object_set_new(answer, "used", json_integer(usage.used));
    if (config->parent != NULL)
        json_object_set_new(answer, "parent", api_text(config->parent));
    if (config->expires != NULL && machine_parse_time(config->expires, &expires))
        json_object_set_new(answer, "expires", json_integer(expires));
}

json_t *api_describe(struct daemon *daemon, const char *name, struct error **err)
{
    struct instance instance;
    struct machine_config config;
    struct vmx_notes notes = {0};
    json_t *answer = NULL;
    if (!instance_open(&instance, &daemon->store, name, err))
        return NULL;
    machine_config_init(&config);
    if (instance_config(&instance, &config, &notes, err)) {
        json_t *disks = json_array(), *noted = json_array();
        for (size_t i = 0; i < config.disk_count; i++)
            json_array_append_new(disks, api_text(config.disks[i].path));
        for (size_t i = 0; i < notes.count; i++)
            json_array_append_new(noted, api_text(notes.list[i].key));
        answer = json_pack("{s:s, s:s, s:o, s:b, s:I, s:i, s:i, s:o, s:o}", "name", name, "state",
                           machine_state(daemon, name), "path", api_text(instance.path), "template",
                           (int)instance.is_template, "memory", (json_int_t)config.memory, "cpus",
                           (int)config.cpus, "nics", (int)config.nic_count, "disks", disks,
                           "not-honoured", noted);
        catalogue_describe(daemon->catalogue, name, answer);
        describe_vsock(&config, instance.path, answer);
        restart_describe(daemon, name, &config, answer);
        migrate_out_describe(daemon, name, answer);
        describe_policy(&config, answer);
        describe_use(&instance, &config, answer);
    }
    vmx_notes_clear(&notes);
    machine_config_clear(&config);
    instance_close(&instance);
    return answer;
}

/* ---- finding the row ---- */

/* "/v1/instances/{name}/start": {name} stands for one part. */
static bool path_fits(const char *pattern, const char *path, char name[64])
{
    for (; *pattern != '\0' && *pattern != '{'; pattern++, path++)
        if (*pattern != *path)
            return false;
    name[0] = '\0';
    if (*pattern == '\0')
        return *path == '\0';
    size_t length = strcspn(path, "/");
    if (length == 0 || length >= 64)
        return false;
    memcpy(name, path, length);
    name[length] = '\0';
    return strcmp(strchr(pattern, '}') + 1, path + length) == 0;
}

const struct api_verb *api_find(const char *method, const char *path, char name[64], bool *known)
{
    *known = false;
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        if (path_fits(verbs[i]->path, path, name)) {
            *known = true;
            if (strcmp(verbs[i]->method, method) == 0)
                return verbs[i];
        }
    return NULL;
}

/* ---- the document ---- */

static const char schemas[] =
    "{\"Error\": {\"type\": \"object\", \"required\": [\"error\"], \"properties\": {\"error\": "
    "{\"type\": \"string\", \"description\": \"a sentence with cause and remedy\"}}},"
    "\"Instance\": {\"type\": \"object\", \"required\": [\"name\", \"state\", \"path\", "
    "\"template\", \"memory\", \"cpus\", \"nics\", \"disks\", \"not-honoured\", \"owner\", "
    "\"created\", \"disk-used\"], \"properties\": {"
    "\"name\": {\"type\": \"string\"}, \"state\": {\"type\": \"string\"},"
    "\"path\": {\"type\": \"string\", \"description\": \"its folder\"},"
    "\"vsock\": {\"type\": \"string\", \"description\": \"the socket that leads to the guest's "
    "vsock\"},"
    "\"template\": {\"type\": \"boolean\"},"
    "\"memory\": {\"type\": \"integer\", \"description\": \"bytes\"},"
    "\"cpus\": {\"type\": \"integer\"}, \"nics\": {\"type\": \"integer\"},"
    "\"max-cpus\": {\"type\": \"integer\", \"description\": \"that there is room for\"},"
    "\"disks\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}},"
    "\"not-honoured\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}, \"description\": "
    "\"keys of its .vmx\"},"
    "\"owner\": {\"type\": \"string\", \"description\": \"who made it\"},"
    "\"uid\": {\"type\": \"integer\", \"description\": \"user id of its folder's owner\"},"
    "\"cpu-weight\": {\"type\": \"integer\", \"description\": \"0: not given, 100\"},"
    "\"cpu-cap\": {\"type\": \"integer\", \"description\": \"percent of one CPU; 0: none\"},"
    "\"memory-limit\": {\"type\": \"integer\", \"description\": \"bytes that the guest keeps; 0: "
    "all\"},"
    "\"cpu\": {\"type\": \"object\", \"description\": \"of one that runs: ns since its start\", "
    "\"properties\": {\"used-ns\": {\"type\": \"integer\"}, \"held-ns\": {\"type\": "
    "\"integer\", \"description\": \"stood still because of its limits\"}, \"waited-ns\": "
    "{\"type\": \"integer\", \"description\": \"its vCPUs would have run, and the host was "
    "busy\"}}},"
    "\"created\": {\"type\": \"integer\", \"description\": \"seconds since 1970\"},"
    "\"autostart\": {\"type\": \"boolean\"}, \"restart\": {\"type\": \"string\", \"enum\": "
    "[\"no\", \"on-failure\", \"always\"]}, \"restarts\": {\"type\": \"object\", \"required\": "
    "[\"tries\", \"gave-up\"], \"properties\": {\"tries\": {\"type\": \"integer\", \"description\": "
    "\"since it last ran for ten minutes\"}, \"gave-up\": {\"type\": \"boolean\"}, \"next\": {\"type\": "
    "\"integer\", \"description\": \"seconds since 1970\"}}},"
    "\"started\": {\"type\": \"integer\"}, \"ended\": {\"type\": \"integer\"},"
    "\"used\": {\"type\": \"integer\", \"description\": \"when its machine began or ended last, or "
    "now; seconds since 1970\"},"
    "\"disk-used\": {\"type\": \"integer\", \"description\": \"bytes that its own files take\"},"
    "\"parent\": {\"type\": \"string\", \"description\": \"the template that it lies upon\"},"
    "\"clones\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}, \"description\": \"what "
    "lies upon it, of a template\"},"
    "\"expires\": {\"type\": \"integer\", \"description\": \"when it is no longer needed\"},"
    "\"migration\": {\"type\": \"object\", \"required\": [\"stage\", \"peer\"], \"description\": "
    "\"of one that moves, or whose source does not know yet that it has arrived\", \"properties\": "
    "{\"stage\": {\"type\": \"string\", \"enum\": [\"reserving\", \"copying\", \"handing-over\", \"arriving\", \"arrived\"]}, "
    "\"peer\": {\"type\": \"string\", \"description\": \"the other daemon\"}}},"
    "\"last-end\": {\"$ref\": \"#/components/schemas/End\"}}},"
    "\"End\": {\"type\": \"object\", \"required\": [\"end\"], \"properties\": {"
    "\"end\": {\"type\": \"string\", \"enum\": [\"poweroff\", \"reset\", \"exit-code\", \"crash\", "
    "\"quit\", \"refused\", \"died\"]}, \"code\": {\"type\": \"integer\"}, \"message\": "
    "{\"type\": \"string\"}}},"
    "\"Event\": {\"type\": \"object\", \"required\": [\"number\", \"time\", \"instance\", "
    "\"type\"], \"properties\": {\"number\": {\"type\": \"integer\"}, \"time\": {\"type\": "
    "\"integer\"}, \"instance\": {\"type\": \"string\"}, \"type\": {\"type\": \"string\"}, "
    "\"detail\": {\"type\": \"object\"}}}}";

static json_t *parse(const char *text)
{
    json_t *value = json_loads(text, 0, NULL);
    if (value == NULL)
        abort(); /* a row of ours is no JSON: every start of the daemon would find it */
    return value;
}

#define STREAM_TYPE   "application/octet-stream"
#define STREAM_SCHEMA "{\"type\": \"string\", \"format\": \"binary\"}"

static json_t *describe_verb(const struct api_verb *verb)
{
    json_t *parameters = verb->query != NULL ? parse(verb->query) : json_array();
    if (strstr(verb->path, "{name}") != NULL)
        json_array_insert_new(parameters, 0,
                              parse("{\"name\": \"name\", \"in\": \"path\", \"required\": true, "
                                    "\"schema\": {\"type\": \"string\"}}"));
    char status[8];
    snprintf(status, sizeof(status), "%d", verb->status);
    bool gives = verb->stream == API_GIVES_STREAM;
    const char *type = gives ? STREAM_TYPE : verb->type != NULL ? verb->type : "application/json";
    json_t *row = json_pack("{s:s, s:s, s:o, s:{s:{s:s, s:{s:{s:o}}}, s:{s:s, s:{s:{s:o}}}}}",
                            "operationId", verb->id, "summary", verb->summary, "parameters",
                            parameters, "responses", status, "description", "done", "content",
                            type, "schema",
                            parse(gives ? STREAM_SCHEMA : verb->answer), "default", "description",
                            "not done", "content", "application/json", "schema",
                            parse("{\"$ref\": \"#/components/schemas/Error\"}"));
    if (verb->stream == API_TAKES_STREAM)
        json_object_set_new(row, "requestBody",
                            json_pack("{s:{s:{s:o}}}", "content", STREAM_TYPE, "schema",
                                      parse(STREAM_SCHEMA)));
    if (verb->body != NULL || verb->describe_body != NULL)
        json_object_set_new(
            row, "requestBody",
            json_pack("{s:{s:{s:o}}}", "content", "application/json", "schema",
                      verb->body != NULL ? parse(verb->body) : verb->describe_body()));
    return row;
}

json_t *api_openapi(void)
{
    json_t *paths = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        json_t *path = json_object_get(paths, verbs[i]->path);
        char method[8] = "";
        for (size_t k = 0; verbs[i]->method[k] != '\0'; k++)
            method[k] = (char)(verbs[i]->method[k] | 0x20);
        if (path == NULL) {
            json_object_set_new(paths, verbs[i]->path, json_object());
            path = json_object_get(paths, verbs[i]->path);
        }
        json_object_set_new(path, method, describe_verb(verbs[i]));
    }
    return json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:o}}", "openapi", "3.0.3", "info", "title",
                     "Trapeze", "version", TRAPEZE_VERSION, "paths", paths, "components", "schemas",
                     parse(schemas));
}
