/* SPDX-License-Identifier: MIT
 *
 * See queue_internal.h.
 */
#include "base/bits.h"
#include "block/queue_internal.h"

static bool overlap(const struct block_request *one, const struct block_request *other)
{
    return one->begin < other->end && other->begin < one->end;
}

static bool has_to_wait(const struct block_request *request)
{
    for (const struct block_request *r = request->earlier; r != NULL; r = r->earlier)
        if ((r->blocked || r->exclusive || request->exclusive) && overlap(r, request))
            return true;
    return false;
}

void occupants_add(struct block_occupants *occupants, struct block_request *request,
                   uint32_t granule)
{
    request->tracked = true;
    request->begin = align_down(request->offset, granule);
    request->end = align_up(request->offset + request->length, granule);
    request->later = NULL;
    request->earlier = occupants->last;
    *(occupants->last != NULL ? &occupants->last->later : &occupants->first) = request;
    occupants->last = request;
}

void occupants_remove(struct block_occupants *occupants, struct block_request *request)
{
    *(request->earlier != NULL ? &request->earlier->later : &occupants->first) = request->later;
    *(request->later != NULL ? &request->later->earlier : &occupants->last) = request->earlier;
    request->tracked = false;
}

bool occupants_block(struct block_occupants *occupants, struct block_request *request)
{
    request->blocked = has_to_wait(request);
    occupants->blocked += request->blocked;
    return request->blocked;
}

bool occupants_unblock(struct block_occupants *occupants, struct block_request *request)
{
    if (!request->blocked || has_to_wait(request))
        return false;
    request->blocked = false;
    occupants->blocked--;
    return true;
}
