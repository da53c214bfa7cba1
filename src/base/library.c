/* SPDX-License-Identifier: MIT
 *
 * See library.h.
 */
#include "base/library.h"

#include <dlfcn.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

bool library_load(const char *const *names, const char *const *calls, void *to, const char **why)
{
    void *handle = NULL;
    for (; *names != NULL && handle == NULL; names++)
        handle = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
    bool good = handle != NULL;
    for (size_t i = 0; good && calls[i] != NULL; i++) {
        void *symbol = dlsym(handle, calls[i]);
        memcpy((char *)to + i * sizeof(symbol), &symbol, sizeof(symbol));
        good = symbol != NULL;
    }
    *why = good ? NULL : dlerror();
    return good;
}

static int has_name(struct dl_phdr_info *info, size_t size, void *name)
{
    const char *slash = strrchr(info->dlpi_name, '/');
    (void)size;
    return strcmp(slash != NULL ? slash + 1 : info->dlpi_name, name) == 0;
}

bool library_is_loaded(const char *name)
{
    return dl_iterate_phdr(has_name, (void *)(uintptr_t)name) != 0;
}
