/* SPDX-License-Identifier: MIT
 *
 * A client of firecracker/api.h, and the host that it is answered by: no machine, only what was
 * asked of one.
 */
#ifndef TRAPEZE_TESTS_FIRECRACKER_WORLD_H
#define TRAPEZE_TESTS_FIRECRACKER_WORLD_H

#include "support.h"

#include <jansson.h>
#include <unistd.h>

#include "base/bits.h"
#include "config/machine.h"
#include "firecracker/api.h"

struct world {
    struct fc fc;
    struct machine_config config; /* as it was started */
    unsigned starts, loads;
    char *notes;         /* of the snapshot that was saved last, or that there is to load */
    const char *refusal; /* what the next start or verb fails with */
    char asked[512], metrics[512], metadata[1024];
    struct fc_answer answer;
};

static inline bool start(void *opaque, const struct machine_config *config, struct error **err)
{
    struct world *w = opaque;
    if (w->refusal != NULL)
        return error_set(err, ERROR_HOST, "%s", w->refusal);
    machine_config_clear(&w->config);
    machine_config_copy(&w->config, config);
    w->starts++;
    return true;
}

static inline json_t *verb(void *opaque, const char *verb, const json_t *arguments,
                           struct error **err)
{
    struct world *w = opaque;
    char *text = json_dumps(arguments, JSON_COMPACT);
    snprintf(w->asked, sizeof(w->asked), "%s %s", verb, text);
    free(text);
    if (w->refusal == NULL)
        return json_pack("{s:I, s:I, s:{s:I, s:I}}", "dropped", (json_int_t)55, "given-up",
                         (json_int_t)(48 << 20), "guest", "free", (json_int_t)12345, "caches",
                         (json_int_t)99);
    error_set(err, ERROR_HOST, "%s", w->refusal);
    return NULL;
}

static inline bool replace(void *opaque, size_t drive, const char *path, bool read_only,
                           struct error **err)
{
    struct world *w = opaque;
    snprintf(w->asked, sizeof(w->asked), "replace %zu %s%s", drive, path,
             read_only ? " read-only" : "");
    return w->refusal == NULL || error_set(err, ERROR_HOST, "%s", w->refusal);
}

static inline bool open_file(void *opaque, const char *path, struct error **err)
{
    (void)opaque;
    return strcmp(path, "/bad") != 0 || error_set(err, ERROR_HOST, "cannot open '/bad'");
}

static inline void write_metrics(void *opaque, const char *line)
{
    struct world *w = opaque;
    snprintf(w->metrics, sizeof(w->metrics), "%s", line);
}

static inline bool save(void *opaque, const struct fc_snapshot *snapshot, struct error **err)
{
    struct world *w = opaque;
    snprintf(w->asked, sizeof(w->asked), "save %s %s%s%s %llu", snapshot->state, snapshot->memory,
             snapshot->changes ? " changes" : "", snapshot->track ? " track" : "",
             snapshot->memory_size);
    free(w->notes);
    w->notes = strdup(snapshot->notes);
    return w->refusal == NULL || error_set(err, ERROR_HOST, "%s", w->refusal);
}

static inline char *open_saved(void *opaque, const char *state, const char *memory,
                               struct machine_config *was, struct error **err)
{
    struct world *w = opaque;
    snprintf(w->asked, sizeof(w->asked), "open %s %s", state, memory);
    free(was->interrupts);
    was->interrupts = strdup("plic");
    if (w->notes != NULL)
        return strdup(w->notes);
    error_set(err, ERROR_HOST, "there is nothing");
    return NULL;
}

static inline bool go_on(void *opaque, const struct machine_config *config, struct error **err)
{
    ((struct world *)opaque)->loads++;
    return start(opaque, config, err);
}

static inline bool metadata(void *opaque, const struct fc_metadata *metadata, struct error **err)
{
    struct world *w = opaque;
    char *text = json_dumps(metadata->message, JSON_COMPACT | JSON_SORT_KEYS);
    snprintf(w->metadata, sizeof(w->metadata), "%s %d%d %s", metadata->address, metadata->nics[0],
             metadata->nics[1], text);
    free(text);
    return w->refusal == NULL || error_set(err, ERROR_HOST, "%s", w->refusal);
}

static const struct fc_host host = {start,         verb, replace,    open_file, open_file,
                                    write_metrics, save, open_saved, go_on,     metadata};

static inline int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    fc_init(&w->fc, "vm1", &host, w);
    machine_config_init(&w->config);
    *state = w;
    return 0;
}

static inline int teardown(void **state)
{
    struct world *w = *state;
    json_decref(w->answer.body);
    machine_config_clear(&w->config);
    fc_clear(&w->fc);
    free(w->notes);
    free(w);
    return 0;
}

/* "METHOD PATH" and a body with ' for ". */
static inline int request(struct world *w, const char *line, const char *body)
{
    char method[16], path[128], text[2048];
    assert_int_equal(sscanf(line, "%15s %127s", method, path), 2);
    snprintf(text, sizeof(text), "%s", body != NULL ? body : "");
    for (char *at = text; *at != '\0'; at++)
        if (*at == '\'')
            *at = '"';
    json_decref(w->answer.body);
    fc_request(&w->fc, method, path, body != NULL ? text : NULL, strlen(text), &w->answer);
    if (w->answer.status == 204)
        assert_null(w->answer.body);
    else
        assert_non_null(w->answer.body);
    return w->answer.status;
}

static inline void accepts(struct world *w, const char *line, const char *body)
{
    if (request(w, line, body) != 204)
        fail_msg("%s %s: %s", line, body,
                 json_string_value(json_object_get(w->answer.body, "fault_message")));
}

static inline void refuses(struct world *w, const char *line, const char *body, const char *part)
{
    if (request(w, line, body) != 400)
        fail_msg("%s %s is not refused", line, body != NULL ? body : "");
    const char *fault = json_string_value(json_object_get(w->answer.body, "fault_message"));
    assert_non_null(fault);
    assert_int_equal(json_object_size(w->answer.body), 1);
    if (strstr(fault, part) == NULL)
        fail_msg("%s: '%s' is not in '%s'", line, part, fault);
}

static inline const char *told(struct world *w, const char *line, const char *name)
{
    assert_int_equal(request(w, line, NULL), 200);
    const char *text = json_string_value(json_object_get(w->answer.body, name));
    return text != NULL ? text : "";
}

#define START    "PUT /actions", "{'action_type': 'InstanceStart'}"
#define CREATE   "PUT /snapshot/create"
#define LOAD     "PUT /snapshot/load"
#define FILES    "{'snapshot_path': '/s', 'mem_file_path': '/m'"
#define BOOT     "PUT /boot-source", "{'kernel_image_path': '/dev/null'}"
#define TOO_LATE "not supported after starting the microVM"
#define TOO_SOON "not supported before starting the microVM"

/* A new process, in which nothing was configured. */
static inline void begin_anew(struct world *w)
{
    fc_clear(&w->fc);
    fc_init(&w->fc, "vm2", &host, w);
}

#endif
