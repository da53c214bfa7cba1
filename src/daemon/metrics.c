/* SPDX-License-Identifier: MIT
 *
 * See metrics.h.
 */
#include "daemon/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/bits.h"
#include "base/error.h"
#include "build.h"
#include "daemon/daemon.h"
#include "daemon/http.h"
#include "daemon/job.h"
#include "daemon/machine.h"
#include "daemon/store.h"

/* ---- of machines: rows ---- */

struct row {
    const char *name, *type, *help;
    const char *list;   /* of the answer, an array with a sample for each; NULL: one for all */
    const char *item;   /* the label that says which; its value is the member `number`'s */
    const char *number; /* NULL: the place in the array */
    const char *key;    /* the member; one that ends in '-' is all members that begin so… */
    const char *kind;   /* …and the rest of their names is this label */
    double scale;
};

#define VCPUS "vcpus", "vcpu", NULL
#define DISKS "disks", "disk", "disk"
#define NICS  "nics", "nic", "nic"
#define WHOLE NULL, NULL, NULL

static const struct row rows[] = {
    {"trapeze_instance_cpu_seconds_total", "counter", "CPU time of the machine's process.", WHOLE,
     "cpu-ns", NULL, 1e-9},
    {"trapeze_instance_resident_memory_bytes", "gauge", "What of the process is in RAM.", WHOLE,
     "resident", NULL, 1},
    {"trapeze_instance_memory_bytes", "gauge", "The guest's memory.", WHOLE, "memory", NULL, 1},
    {"trapeze_instance_balloon_bytes", "gauge", "What of it the guest has given up.", WHOLE,
     "balloon", NULL, 1},
    {"trapeze_instance_vcpus", "gauge", "Virtual processors.", WHOLE, "cpus", NULL, 1},
    {"trapeze_instance_instructions_total", "counter", "Instructions that the guest executed.",
     VCPUS, "instructions", NULL, 1},
    {"trapeze_instance_exits_total", "counter", "Returns from guest code, by reason.", VCPUS,
     "exits-", "reason", 1},
    {"trapeze_instance_tlb_refills_total", "counter", "Walks of page tables, by access.", VCPUS,
     "tlb-refills-", "access", 1},
    {"trapeze_instance_tlb_flushes_total", "counter", "Flushes of the TLB, by extent.", VCPUS,
     "tlb-flushes-", "extent", 1},
    {"trapeze_instance_translations_total", "counter", "Blocks of guest code translated.", VCPUS,
     "blocks-translated", NULL, 1},
    {"trapeze_instance_disk_reads_total", "counter", "Reads that the guest asked for.", DISKS,
     "reads", NULL, 1},
    {"trapeze_instance_disk_read_bytes_total", "counter", "Bytes read.", DISKS, "read-bytes", NULL,
     1},
    {"trapeze_instance_disk_writes_total", "counter", "Writes that the guest asked for.", DISKS,
     "writes", NULL, 1},
    {"trapeze_instance_disk_written_bytes_total", "counter", "Bytes written.", DISKS,
     "written-bytes", NULL, 1},
    {"trapeze_instance_network_sent_bytes_total", "counter", "Bytes that the guest sent.", NICS,
     "sent-bytes", NULL, 1},
    {"trapeze_instance_network_sent_frames_total", "counter", "Frames that the guest sent.", NICS,
     "sent-frames", NULL, 1},
    {"trapeze_instance_network_received_bytes_total", "counter", "Bytes that the guest got.", NICS,
     "received-bytes", NULL, 1},
    {"trapeze_instance_network_received_frames_total", "counter", "Frames that the guest got.",
     NICS, "received-frames", NULL, 1},
};

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static bool is_word(const char *text)
{
    size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return length > 0 && length < 40 && text[length] == '\0';
}

struct sample {
    FILE *out;
    const struct row *row;
    const char *instance;
    bool headed;
};

/* `item` < 0: there is no such label; `kind`: NULL likewise. */
static void write_sample(struct sample *sample, json_int_t item, const char *kind,
                         const json_t *value)
{
    const struct row *row = sample->row;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return;
    if (!sample->headed)
        head(sample->out, row->name, row->type, row->help);
    sample->headed = true;
    fprintf(sample->out, "%s{instance=\"%s\"", row->name, sample->instance);
    if (item >= 0)
        fprintf(sample->out, ",%s=\"%lld\"", row->item, (long long)item);
    if (kind != NULL)
        fprintf(sample->out, ",%s=\"%s\"", row->kind, kind);
    if (row->scale == 1)
        fprintf(sample->out, "} %lld\n", (long long)json_integer_value(value));
    else
        fprintf(sample->out, "} %.9f\n", (double)json_integer_value(value) * row->scale);
}

static void write_member(struct sample *sample, json_int_t item, const json_t *object)
{
    const char *key = sample->row->key, *name;
    size_t length = strlen(key);
    json_t *value;
    if (sample->row->kind == NULL) {
        write_sample(sample, item, NULL, json_object_get(object, key));
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        if (strncmp(name, key, length) == 0 && is_word(name + length))
            write_sample(sample, item, name + length, value);
    }
}

static void write_row(FILE *out, const struct row *row, const json_t *machines)
{
    struct sample sample = {.out = out, .row = row};
    json_t *answer, *object;
    size_t index;
    json_object_foreach((json_t *)(uintptr_t)machines, sample.instance, answer)
    {
        json_int_t last = -1;
        if (row->list == NULL) {
            write_member(&sample, -1, answer);
            continue;
        }
        json_array_foreach(json_object_get(answer, row->list), index, object)
        {
            json_int_t item = row->number == NULL
                                  ? (json_int_t)index
                                  : json_integer_value(json_object_get(object, row->number));
            if (item <= last) /* it stands once, so that the whole can be read */
                continue;
            last = item;
            write_member(&sample, item, object);
        }
    }
}

static void write_up(FILE *out, const json_t *machines)
{
    const char *name;
    json_t *answer;
    head(out, "trapeze_instance_up", "gauge", "1: the machine's process answers.");
    json_object_foreach((json_t *)(uintptr_t)machines, name, answer)
    {
        fprintf(out, "trapeze_instance_up{instance=\"%s\"} %d\n", name,
                (int)json_is_object(answer));
    }
}

/* ---- of the daemon ---- */

static void write_states(FILE *out, struct daemon *daemon)
{
    char **names = store_list(&daemon->store, NULL);
    json_t *counts = json_object(), *count;
    const char *state;
    for (size_t i = 0; names != NULL && names[i] != NULL; i++) {
        state = machine_state(daemon, names[i]);
        json_object_set_new(counts, state,
                            json_integer(json_integer_value(json_object_get(counts, state)) + 1));
    }
    head(out, "trapeze_instances", "gauge", "Instances, by state.");
    json_object_foreach(counts, state, count)
    {
        fprintf(out, "trapeze_instances{state=\"%s\"} %lld\n", state,
                (long long)json_integer_value(count));
    }
    json_decref(counts);
    store_list_free(names);
}

static void write_answers(void *opaque, const char *verb, int status, unsigned long long count)
{
    fprintf(opaque, "trapeze_http_requests_total{verb=\"%s\",status=\"%d\"} %llu\n", verb, status,
            count);
}

static void write_plain(FILE *out, const char *name, const char *type, const char *help,
                        double value)
{
    head(out, name, type, help);
    fprintf(out, "%s %.17g\n", name, value);
}

static void write_daemon(FILE *out, struct daemon *daemon)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    head(out, "trapeze_build_info", "gauge", "1; the daemon's version.");
    fputs("trapeze_build_info{version=\"" TRAPEZE_VERSION "\"} 1\n", out);
    write_plain(out, "trapeze_daemon_start_time_seconds", "gauge",
                "When the daemon started, since 1970.", (double)daemon->started);
    write_plain(out, "trapeze_daemon_cpu_seconds_total", "counter",
                "CPU time of the daemon, without its jobs.",
                (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                    (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6);
    write_plain(out, "trapeze_daemon_jobs_running", "gauge", "Jobs at work.", job_count(daemon));
    write_plain(out, "trapeze_daemon_jobs_total", "counter", "Jobs begun.",
                (double)daemon->all_jobs);
    if (daemon->remote != NULL)
        write_plain(out, "trapeze_daemon_refused_total", "counter",
                    "Requests over TCP without a token or certificate of ours.",
                    (double)remote_refused(daemon->remote));
    head(out, "trapeze_http_requests_total", "counter", "Answered requests, by verb and status.");
    http_counts(daemon, write_answers, out);
    write_states(out, daemon);
}

char *metrics_write(struct daemon *daemon, const json_t *machines)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    write_daemon(out, daemon);
    write_up(out, machines);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        write_row(out, &rows[i], machines);
    fclose(out);
    return text;
}
