/* SPDX-License-Identifier: MIT
 *
 * See confine.h.
 */
#include "worker/confine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/error.h"
#include "base/log.h"
#include "sandbox/sandbox.h"
#include "vm/files.h"

/* LeakSanitizer looks at the threads of a process from a child of it, which the sandbox does not
 * allow. A question that the table of system calls refuses tells it to leave us alone. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
}

static void enter(const struct machine_config *config, const struct vm_files *files, int namespaces,
                  struct sandbox_report *report)
{
    struct sandbox_folder folders[MACHINE_MAX_SHARES];
    struct sandbox_wish wish = {.folders = folders, .folder_count = config->share_count};
    for (size_t i = 0; i < config->share_count; i++)
        folders[i] = (struct sandbox_folder){files->shares[i], config->shares[i].writable};
    if (files->kvm >= 0)
        wish.features |= SANDBOX_KVM;
    else if (strcmp(config->engine, "interp") != 0)
        wish.features |= SANDBOX_CODE;
    if (config->share_count > 0)
        wish.features |= SANDBOX_FOLDERS;
    sandbox_enter(&wish, namespaces, report);
}

bool worker_confine(const char *how, const struct machine_config *config,
                    const struct vm_files *files, struct log *log, char *text, size_t room,
                    struct error **err)
{
    struct sandbox_report report;
    enum sandbox_mode mode;
    char name[8] = "", refused[256];
    int namespaces = 0;
    if (sscanf(how, "%7[a-z]:%d", name, &namespaces) != 2 || !sandbox_mode_from(name, &mode))
        return error_set(err, ERROR_INTERNAL, "'%s' is not how a worker is locked in", how);
    snprintf(text, room, "off");
    if (mode == SANDBOX_OFF)
        return true;
    enter(config, files, namespaces, &report);
    sandbox_describe(&report, true, text, room);
    sandbox_describe(&report, false, refused, sizeof(refused));
    if (sandbox_is_whole(&report)) {
        if (refused[0] != '\0')
            log_info(log, "the sandbox does without %s", refused);
        return true;
    }
    if (mode == SANDBOX_ON) {
        error_set(err, ERROR_HOST, "the host refuses parts of the sandbox: %s", refused);
        error_hint(err, "'--sandbox auto' does with the rest.");
        return false;
    }
    log_warning(log, "the host refuses parts of the sandbox: %s. What is left: %s", refused, text);
    return true;
}
