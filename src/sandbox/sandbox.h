/* SPDX-License-Identifier: MIT
 *
 * The walls around a process that handles what strangers have made: one that is taken over reaches
 * what it was handed, and nothing else. Each part holds by itself, as far as the host lets us:
 *
 *     namespaces   user, mount, PID, network, IPC and UTS namespaces of its own     sandbox_fork()
 *     root         an empty, read-only root directory (needs the namespaces)        sandbox_enter()
 *     privileges   no capabilities, no new ones by exec, not root if it can be      "
 *     landlock     no files but those below the folders it is given                 "
 *     filter       no system calls but those of a table (filter.c)                  "
 *
 * Who starts the process forks it into its namespaces; the process opens what it needs by name, and
 * enters the rest before it looks at anything:
 *
 *     pid = sandbox_fork(SANDBOX_ALONE, &refused);                  // child: exec
 *     sandbox_enter(&wish, refused, &report);        // ... and there, while it has one thread
 *
 * A system call that is not in the table ends the process with a line on standard error that names
 * it, and by SIGSYS.
 *
 * Threads: call everything while there is one only; later threads inherit it all.
 */
#ifndef TRAPEZE_SANDBOX_SANDBOX_H
#define TRAPEZE_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct error;

/* AddressSanitizer watches: the table has rows for it. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

enum sandbox_mode {
    SANDBOX_AUTO, /* what the host allows */
    SANDBOX_ON,   /* all of it, or the process does not start; Landlock where the kernel has it */
    SANDBOX_OFF
};

extern const char *const sandbox_mode_names[SANDBOX_OFF + 1]; /* "auto", "on", "off" */
bool sandbox_mode_from(const char *name, enum sandbox_mode *mode);

enum sandbox_part {
    SANDBOX_NAMESPACES,
    SANDBOX_ROOT,
    SANDBOX_PRIVILEGES,
    SANDBOX_LANDLOCK,
    SANDBOX_FILTER,
    SANDBOX_PARTS
};

/* What a process does beyond what all do: sets of rows of the table. */
enum sandbox_feature {
    SANDBOX_CODE = 1,   /* maps memory executable that it has written through another mapping */
    SANDBOX_KVM = 4,    /* has a machine of KVM's */
    SANDBOX_FOLDERS = 2 /* opens, makes and removes files below folders that it has */
};

struct sandbox_folder {
    int fd;
    bool writable;
};

struct sandbox_wish {
    unsigned features; /* enum sandbox_feature */
    const struct sandbox_folder *folders;
    size_t folder_count;
};

struct sandbox_report {
    int refused[SANDBOX_PARTS]; /* 0: it is in force; otherwise why not, an errno value */
};

/* fork() into namespaces of its own, or fork() if the host refuses those, with *refused the errno
 * value of why (0: it did not). The child keeps, also through exec, the capability that
 * sandbox_enter() needs, and has no right over anything outside.
 * SANDBOX_ALONE: with it end the copies that it makes of itself; SANDBOX_FAMILY: they may outlive it, as
 * the namespaces' first process is another, which waits for the last of them. The child is that one's
 * then, not ours to wait for. */
enum sandbox_life { SANDBOX_ALONE, SANDBOX_FAMILY };
pid_t sandbox_fork(enum sandbox_life life, int *refused);

/* What of it failed stands in the report, none of it stops the rest. `namespaces`: what
 * sandbox_fork() said. */
void sandbox_enter(const struct sandbox_wish *wish, int namespaces, struct sandbox_report *report);

/* Whether SANDBOX_ON would be content. */
bool sandbox_is_whole(const struct sandbox_report *report);
/* "namespaces, root": the parts in force, or those refused with the reason; for people. */
void sandbox_describe(const struct sandbox_report *report, bool in_force, char *text, size_t room);

/* This process's id outside of its PID namespace; before sandbox_enter(). */
pid_t sandbox_outer_pid(void);

/* Parts, for processes that need others: 0 or an errno value. */
int sandbox_drop_privileges(bool stay_root);
int sandbox_only_folders(const struct sandbox_folder *folders, size_t count, bool network);
int sandbox_empty_root(void);
int sandbox_filter(unsigned features);

#endif
