/* SPDX-License-Identifier: MIT
 *
 * Allocations that cannot fail; see alloc.h for which ones those may be.
 */
#include "base/alloc.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* What is reachable only from pages of mmap()'s is no leak. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#define ROOTS_BEGIN(memory, size) __lsan_register_root_region(memory, size)
#define ROOTS_END(memory, size)   __lsan_unregister_root_region(memory, size)
#else
#define ROOTS_BEGIN(memory, size) ((void)0)
#define ROOTS_END(memory, size)   ((void)0)
#endif

static void *checked(void *memory)
{
    if (!memory) {
        fputs("trapeze: the host is out of memory; free some or give the guest less\n", stderr);
        abort();
    }
    return memory;
}

void *alloc_zeroed(size_t count, size_t size)
{
    /* One byte at least: calloc(0) may return NULL. calloc checks the product. */
    return checked(count == 0 || size == 0 ? calloc(1, 1) : calloc(count, size));
}

void *alloc_resize(void *old, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return checked(NULL);
    return checked(realloc(old, bytes == 0 ? 1 : bytes));
}

char *alloc_string(const char *from)
{
    return checked(strdup(from));
}

void *alloc_pages(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    (void)checked(memory != MAP_FAILED ? memory : NULL);
    ROOTS_BEGIN(memory, size);
    return memory;
}

void alloc_pages_free(void *memory, size_t size)
{
    if (!memory)
        return;
    ROOTS_END(memory, size);
    munmap(memory, size);
}
