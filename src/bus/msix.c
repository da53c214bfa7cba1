/* SPDX-License-Identifier: MIT
 *
 * See msix.h. Messages are sent with the lock held: what a vector says when it fires is what is
 * sent, and a vector that was masked (and is seen masked) sends no more.
 */
#include "bus/msix.h"

#include <assert.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/pci.h"

enum { CAPABILITY_ID = 0x11, CAPABILITY_SIZE = 12, VECTOR_SIZE = 16 };
enum { CONTROL = 2, TABLE = 4, PENDING = 8 }; /* in the capability */
enum { CONTROL_MASKED = 1 << 14, CONTROL_ENABLED = 1 << 15 };
enum { VECTOR_ADDRESS = 0, VECTOR_ADDRESS_HIGH = 4, VECTOR_DATA = 8, VECTOR_CONTROL = 12 };
#define VECTOR_MASKED 1u

void msix_init(struct msix *msix, struct pci_function *function, unsigned vectors, unsigned bar,
               uint32_t table, uint32_t pending)
{
    assert(vectors <= MSIX_VECTOR_MAX && table % 8 == 0 && pending % 8 == 0);
    *msix = (struct msix){.function = function, .count = vectors};
    pthread_mutex_init(&msix->lock, NULL);
    if (vectors == 0)
        return;
    uint8_t body[CAPABILITY_SIZE] = {0}, writable[CAPABILITY_SIZE] = {0};
    store_le16(body + CONTROL, (uint16_t)(vectors - 1));
    store_le32(body + TABLE, table | bar);
    store_le32(body + PENDING, pending | bar);
    store_le16(writable + CONTROL, CONTROL_MASKED | CONTROL_ENABLED);
    msix->capability = pci_capability_add(function, CAPABILITY_ID, body, writable, sizeof(body));
    msix_reset(msix);
}

void msix_destroy(struct msix *msix)
{
    pthread_mutex_destroy(&msix->lock);
}

void msix_reset(struct msix *msix)
{
    pthread_mutex_lock(&msix->lock);
    memset(msix->vectors, 0, sizeof(msix->vectors));
    for (unsigned i = 0; i < msix->count; i++)
        msix->vectors[i].control = VECTOR_MASKED;
    msix->pending = 0;
    pthread_mutex_unlock(&msix->lock);
}

bool msix_enabled(struct msix *msix)
{
    pthread_mutex_lock(&msix->lock);
    bool enabled = msix->enabled;
    pthread_mutex_unlock(&msix->lock);
    return enabled;
}

/* Lock held. */
static void send_if_pending(struct msix *msix, unsigned index)
{
    const struct msix_vector *vector = &msix->vectors[index];
    const struct pci_host *host = msix->function->host;
    uint64_t bit = UINT64_C(1) << index;
    if ((msix->pending & bit) == 0 || !msix->enabled || msix->masked ||
        (vector->control & VECTOR_MASKED) != 0 || host == NULL)
        return;
    msix->pending &= ~bit;
    if (host->msi.send != NULL)
        host->msi.send(host->msi.sink, vector->address, vector->data);
}

void msix_fire(struct msix *msix, unsigned vector)
{
    if (vector >= msix->count)
        return;
    pthread_mutex_lock(&msix->lock);
    if (msix->enabled) {
        msix->pending |= UINT64_C(1) << vector;
        send_if_pending(msix, vector);
    }
    pthread_mutex_unlock(&msix->lock);
}

void msix_config_written(struct msix *msix)
{
    struct pci_function *function = msix->function;
    if (msix->capability == 0)
        return;
    uint16_t control = load_le16(function->config + msix->capability + CONTROL);
    pthread_mutex_lock(&msix->lock);
    msix->enabled = (control & CONTROL_ENABLED) != 0;
    msix->masked = (control & CONTROL_MASKED) != 0 || !pci_may_master(function);
    if (!msix->enabled)
        msix->pending = 0;
    for (unsigned i = 0; i < msix->count; i++)
        send_if_pending(msix, i);
    bool enabled = msix->enabled;
    pthread_mutex_unlock(&msix->lock);
    pci_forbid_intx(function, enabled);
}

/* ---- the structures in the BAR ---- */

uint32_t msix_table_read(struct msix *msix, uint64_t offset)
{
    uint32_t value = 0;
    if (offset / VECTOR_SIZE >= msix->count)
        return 0;
    const struct msix_vector *vector = &msix->vectors[offset / VECTOR_SIZE];
    pthread_mutex_lock(&msix->lock);
    switch (offset % VECTOR_SIZE) {
    case VECTOR_ADDRESS:
        value = (uint32_t)vector->address;
        break;
    case VECTOR_ADDRESS_HIGH:
        value = (uint32_t)(vector->address >> 32);
        break;
    case VECTOR_DATA:
        value = vector->data;
        break;
    case VECTOR_CONTROL:
        value = vector->control;
        break;
    }
    pthread_mutex_unlock(&msix->lock);
    return value;
}

void msix_table_write(struct msix *msix, uint64_t offset, uint32_t value)
{
    unsigned index = (unsigned)(offset / VECTOR_SIZE);
    if (index >= msix->count)
        return;
    struct msix_vector *vector = &msix->vectors[index];
    pthread_mutex_lock(&msix->lock);
    switch (offset % VECTOR_SIZE) {
    case VECTOR_ADDRESS: /* bits 1:0 are zero (6.8.2.4) */
        vector->address = bits_set(vector->address, 0, 32, value & ~3u);
        break;
    case VECTOR_ADDRESS_HIGH:
        vector->address = bits_set(vector->address, 32, 32, value);
        break;
    case VECTOR_DATA:
        vector->data = value;
        break;
    case VECTOR_CONTROL:
        vector->control = value & VECTOR_MASKED;
        send_if_pending(msix, index);
        break;
    }
    pthread_mutex_unlock(&msix->lock);
}

uint32_t msix_pending_read(struct msix *msix, uint64_t offset)
{
    pthread_mutex_lock(&msix->lock);
    uint32_t value = offset < 8 ? (uint32_t)(msix->pending >> (8 * (offset & 4))) : 0;
    pthread_mutex_unlock(&msix->lock);
    return value;
}

/* ---- state ---- */

static bool msix_restored(void *object, struct error **err)
{
    struct msix *msix = object;
    bool good = msix->count == MSIX_VECTOR_MAX || msix->pending >> msix->count == 0;
    for (unsigned i = 0; i < MSIX_VECTOR_MAX; i++) {
        const struct msix_vector *vector = &msix->vectors[i];
        bool empty = vector->address == 0 && vector->data == 0 && vector->control == 0;
        good = good && (i < msix->count || empty) && (vector->address & 3) == 0 &&
               vector->control <= VECTOR_MASKED;
    }
    /* The function, which is restored behind this, says whether it is in use. */
    msix->enabled = false;
    return good || error_set(err, ERROR_USAGE,
                             "the saved state of a PCI device's MSI-X table does "
                             "not fit this device");
}

static const struct state_field vector_fields[] = {
    STATE_UINT(struct msix_vector, address, "address"),
    STATE_UINT(struct msix_vector, data, "data"),
    STATE_UINT(struct msix_vector, control, "control"),
    STATE_END,
};
static const struct state_table vector_state = {"msix-vector", 1, vector_fields, NULL, NULL};

static const struct state_field msix_fields[] = {
    STATE_STRUCTS(struct msix, vectors, "vectors", &vector_state),
    STATE_UINT(struct msix, pending, "pending"),
    STATE_END,
};
const struct state_table msix_state = {"msix", 1, msix_fields, NULL, msix_restored};
