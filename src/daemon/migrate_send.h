/* SPDX-License-Identifier: MIT
 *
 * What a job does for a machine that leaves (migration.h): a child process, which may be killed at
 * any moment. Whoever starts it looks at the instance's record afterwards.
 *
 * Threads: the job's.
 */
#ifndef TRAPEZE_DAEMON_MIGRATE_SEND_H
#define TRAPEZE_DAEMON_MIGRATE_SEND_H

#include <jansson.h>

struct daemon;
struct error;

/* {"to": {…}}: brings it there and removes it here. {"to": URL, "notes": […]}; NULL: err, and
 * either it is here, without a record, or its record says "handing-over". */
json_t *migrate_send(struct daemon *daemon, const char *name, const json_t *arguments,
                     struct error **err);
/* Asks for one whose record says "handing-over", and does what follows from that. {"here": whether
 * it is at the target, "to": URL}; NULL: err, and nothing has changed. */
json_t *migrate_ask(struct daemon *daemon, const char *name, const json_t *arguments,
                    struct error **err);
/* {"where": "here"|"there"}: what a person knows. {"name", "where"}; NULL: err. */
json_t *migrate_resolve(struct daemon *daemon, const char *name, const json_t *arguments,
                        struct error **err);
/* Tells all targets that do not know yet. {"left": how many could not be reached}. */
json_t *migrate_settle(struct daemon *daemon, const char *name, const json_t *arguments,
                       struct error **err);

#endif
