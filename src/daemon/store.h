/* SPDX-License-Identifier: MIT
 *
 * Where a user's instances live: a folder with a folder for each (instance.h).
 *
 *     STORE/lock              held by the daemon; a second one is refused
 *     STORE/id, STORE/moved/  of migration.h
 *     STORE/instances/NAME/   an instance, whole
 *     STORE/instances/.new-P-X  one that process P is making, .del-P-X one that it is removing
 *
 * What is made is filled under its .new name and then renamed; what is removed is renamed first.
 * So a name is there with all that belongs to it or not at all, whatever is killed when, and what
 * a killed process leaves is recognised: store_clean() and store_open() remove it.
 *
 * Threads: one at a time.
 */
#ifndef TRAPEZE_DAEMON_STORE_H
#define TRAPEZE_DAEMON_STORE_H

#include <stdbool.h>
#include <sys/types.h>

struct error;

struct store {
    char *path;    /* absolute */
    int folder;    /* STORE */
    int instances; /* STORE/instances */
    int lock;
};

/* Makes the folders if they are missing, takes the lock, and removes what was left behind. */
bool store_open(struct store *store, const char *path, struct error **err);
void store_close(struct store *store);

/* The names of all instances, sorted; ends with NULL. NULL: err. */
char **store_list(const struct store *store, struct error **err);
void store_list_free(char **names); /* NULL is fine */

/* When a folder was made, as far as its file system knows: seconds since 1970. */
struct statx;
long long store_made_at(const struct statx *status);

/* Of instance.c: a folder with a name of its own, ".new-…", in `name`; returns its descriptor.
 * -1: err. */
int store_stage(const struct store *store, char name[32], struct error **err);
/* Gives the staged folder its name, for good. `name` must be free. */
bool store_publish(const struct store *store, const char *staged, const char *name,
                   struct error **err);
/* Removes what a process that ended in the middle of its work has left. */
void store_clean(const struct store *store, pid_t process);
/* Takes a folder out of sight and removes it; what cannot be removed now is next time. */
bool store_discard(const struct store *store, const char *name, struct error **err);

#endif
