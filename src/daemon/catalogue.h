/* SPDX-License-Identifier: MIT
 *
 * The catalogue: an SQLite database beside the instances, with what is asked of all of them at
 * once (owner, age, last use) and with the events. The folders are the truth: a catalogue that is
 * missing or damaged is made anew from them, and catalogue_sync() makes it agree.
 *
 * Threads: the loop's.
 */
#ifndef TRAPEZE_DAEMON_CATALOGUE_H
#define TRAPEZE_DAEMON_CATALOGUE_H

#include <jansson.h>

#include "base/log.h"
#include "daemon/store.h"

struct catalogue;

/* A damaged one is moved aside and said so in the log. NULL: err. */
struct catalogue *catalogue_open(const struct store *store, struct log *log, struct error **err);
void catalogue_close(struct catalogue *catalogue);

/* As many rows as there are instances; new ones belong to the owner of their folder. */
void catalogue_sync(struct catalogue *catalogue, const struct store *store);

/* Notes the event and what it means for its instance; its number. */
long long catalogue_event(struct catalogue *catalogue, const char *instance, const char *type,
                          const json_t *detail);
/* Events behind `after`, the oldest first, at most `limit`. */
json_t *catalogue_events(struct catalogue *catalogue, long long after, int limit);

/* Adds uid (of its folder), created, started, ended and last-end. */
void catalogue_describe(struct catalogue *catalogue, const char *instance, json_t *answer);

#endif
