/* SPDX-License-Identifier: MIT
 *
 * Firecracker's REST API: what a request means, without how it comes (server.h) and without the
 * machine behind it (struct fc_host), so that both can be others in tests. What cannot be done here
 * is refused with a sentence. What only says how (io_engine, huge_pages, one_time_burst, how log
 * lines look) is checked and taken, and means nothing.
 *
 * The resources that requests configure are kept as the JSON objects that they came as, checked:
 * "machine-config", "boot-source", "vsock", "balloon", "entropy", "serial", "logger", "metrics",
 * and arrays "drives" (the root device first) and "network-interfaces".
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_FIRECRACKER_API_H
#define TRAPEZE_FIRECRACKER_API_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "config/machine.h"

struct error;

/* The version of the published API description that we follow. */
#define FC_API_VERSION "1.17.0"
#define FC_BODY_MAX    51200 /* bytes, as there */

/* What the metadata service answers, and where. */
struct fc_metadata {
    const char *address; /* IPv4 */
    bool nics[MACHINE_MAX_NICS];
    json_t *
        message; /* net/metadata.h's, without the key, which is the host's affair; may be changed */
};

struct fc_snapshot {
    const char *state, *memory; /* paths */
    const char *notes;
    bool changes;                   /* only what has changed since the last one */
    bool track;                     /* of this, too, there will be changes */
    unsigned long long memory_size; /* bytes */
};

/* The machine; all of it blocks until it is done. */
struct fc_host {
    bool (*start)(void *opaque, const struct machine_config *config, struct error **err);
    /* A verb of the worker's control protocol; its answer. NULL: err. `arguments` is borrowed. */
    json_t *(*verb)(void *opaque, const char *verb, const json_t *arguments, struct error **err);
    /* Another file behind the drive with that number, or the same one, of another size. */
    bool (*replace)(void *opaque, size_t drive, const char *path, bool read_only, struct error **err);
    /* The files that these requests name; a line of metrics goes to the latter. */
    bool (*open_log)(void *opaque, const char *path, struct error **err);
    bool (*open_metrics)(void *opaque, const char *path, struct error **err);
    void (*write_metrics)(void *opaque, const char *line);
    /* Writes both files of a machine that is paused. */
    bool (*save)(void *opaque, const struct fc_snapshot *snapshot, struct error **err);
    /* Opens both; `was` (initialised) becomes what the machine was, the answer is the notes (the
     * caller frees them). NULL: err. A stranger may have written all of it. */
    char *(*open_saved)(void *opaque, const char *state, const char *memory,
                        struct machine_config *was, struct error **err);
    /* As start(), with what was opened last, and it is paused. */
    bool (*go_on)(void *opaque, const struct machine_config *config, struct error **err);
    /* From now on; of a machine that has not started, from its start on. */
    bool (*metadata)(void *opaque, const struct fc_metadata *metadata, struct error **err);
};

enum fc_state { FC_NOT_STARTED, FC_RUNNING, FC_PAUSED };

struct fc {
    const struct fc_host *host;
    void *opaque;
    const char *id; /* of the microVM; borrowed */
    json_t *resources;
    json_t *store;      /* the metadata service's document; NULL: none was given */
    size_t store_limit; /* bytes of it as text; FC_BODY_MAX at first */
    enum fc_state state;
    bool configured; /* something that a snapshot would bring along was tried */
    bool loaded; /* it goes on from a snapshot */
    bool failed; /* a snapshot could not be loaded: the process is to end, once that is answered */
    unsigned long long requests, failures; /* for metrics */
};

struct fc_answer {
    int status;      /* of HTTP */
    json_t *body;    /* the caller's; NULL: none */
    bool deprecated; /* a header says so */
};

void fc_init(struct fc *fc, const char *id, const struct fc_host *host, void *opaque);
void fc_clear(struct fc *fc);

/* body NULL: there is none. */
void fc_request(struct fc *fc, const char *method, const char *path, const char *body, size_t size,
                struct fc_answer *answer);

/* machine.c: what the resources describe; `config` was initialised. arch NULL: that of the kernel.
 */
bool fc_machine(const json_t *resources, const char *arch, struct machine_config *config,
                struct error **err);
/* kernel.c: the architecture of the kernel in a file, "riscv64" or "x86_64". */
bool fc_kernel_arch(const char *path, const char **arch, struct error **err);
/* What a limiter ("bandwidth", "ops") allows in a second; 0: it sets no limit. */
unsigned long long fc_per_second(const json_t *limiter, const char *bucket);

#endif
