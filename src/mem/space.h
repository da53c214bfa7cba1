/* SPDX-License-Identifier: MIT
 *
 * Private to mem/: what a memory space consists of.
 */
#ifndef TRAPEZE_MEM_SPACE_H
#define TRAPEZE_MEM_SPACE_H

#include <pthread.h>

#include "mem/mem.h"

#define MEM_RAM_MAX 16
#define MEM_ROM_MAX 2

struct mem_space {
    /* Sorted by gpa, disjoint. Constant once vCPUs run: no lock. */
    struct mem_ram *ram[MEM_RAM_MAX];
    size_t ram_count;
    struct mem_rom rom[MEM_ROM_MAX]; /* likewise */
    size_t rom_count;
    struct mem_listener *listeners; /* constant once vCPUs run */
    const struct mem_source *source; /* of lazy regions */
    int pagemap; /* mem_set_pagemap() */
    bool has_pagemap;
    pthread_mutex_t watch_lock;     /* of mem_watch_code(): while somebody asks */

    pthread_mutex_t late_lock;   /* the waiters; a leaf, but for came() of `calling` */
    pthread_cond_t late_changed; /* something came; nobody is being called */
    struct mem_waiter *waiters;
    bool calling;

    pthread_rwlock_t io_lock; /* all below; a leaf */
    struct mem_io **io;       /* sorted by gpa, disjoint */
    struct mem_io *backgrounds[MEM_MAX_BACKGROUNDS]; /* NULL: none */
    size_t io_count, io_capacity;
};

void mem_io_init(struct mem_space *space);
void mem_io_destroy(struct mem_space *space);
void mem_rom_destroy(struct mem_space *space);
void mem_late_init(struct mem_space *space);
void mem_late_destroy(struct mem_space *space);

#endif
