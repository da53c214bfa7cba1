/* SPDX-License-Identifier: MIT
 *
 * Which host clusters hold metadata: a hash table with linear probing.
 */
#include "block/qcow2_internal.h"

#include <stdlib.h>

#include "base/alloc.h"

static size_t slot_of(const struct places *places, uint64_t cluster)
{
    size_t slot = (size_t)((cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (places->room - 1);
    while (places->keys[slot] != 0 && places->keys[slot] != cluster + 1)
        slot = (slot + 1) & (places->room - 1);
    return slot;
}

enum place place_find(const struct places *places, uint64_t cluster)
{
    if (places->count == 0)
        return PLACE_NONE;
    size_t slot = slot_of(places, cluster);
    return places->keys[slot] == 0 ? PLACE_NONE : (enum place)places->kinds[slot];
}

static void insert(struct places *places, uint64_t cluster, enum place kind)
{
    size_t slot = slot_of(places, cluster);
    places->keys[slot] = cluster + 1;
    places->kinds[slot] = (uint8_t)kind;
    places->count++;
}

static void rebuild(struct places *places, size_t room)
{
    struct places old = *places;
    *places = (struct places){
        .keys = alloc_zeroed(room, sizeof(uint64_t)), .kinds = alloc_zeroed(room, 1), .room = room};
    for (size_t i = 0; i < old.room; i++)
        if (old.keys[i] != 0)
            insert(places, old.keys[i] - 1, (enum place)old.kinds[i]);
    places_clear(&old);
}

bool place_add(struct places *places, uint64_t cluster, enum place kind)
{
    if (place_find(places, cluster) != PLACE_NONE)
        return false;
    if (places->count * 2 >= places->room)
        rebuild(places, places->room > 0 ? places->room * 2 : 64);
    insert(places, cluster, kind);
    return true;
}

void place_remove(struct places *places, uint64_t cluster)
{
    if (place_find(places, cluster) == PLACE_NONE)
        return;
    /* Those behind it up to the next gap may have wanted its slot: they are put in again. */
    size_t slot = slot_of(places, cluster);
    places->keys[slot] = 0;
    places->count--;
    for (slot = (slot + 1) & (places->room - 1); places->keys[slot] != 0;
         slot = (slot + 1) & (places->room - 1)) {
        uint64_t moved = places->keys[slot] - 1;
        enum place kind = (enum place)places->kinds[slot];
        places->keys[slot] = 0;
        places->count--;
        insert(places, moved, kind);
    }
}

enum place places_overlap(const struct places *places, uint64_t cluster, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        enum place kind = place_find(places, cluster + i);
        if (kind != PLACE_NONE)
            return kind;
    }
    return PLACE_NONE;
}

void places_clear(struct places *places)
{
    free(places->keys);
    free(places->kinds);
    *places = (struct places){0};
}
