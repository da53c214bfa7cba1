/* SPDX-License-Identifier: MIT
 *
 * virtio input device (virtio 1.2, 5.8) with one key, KEY_POWER: the power button of a machine
 * whose kernels have neither gpio-keys nor ACPI. systemd-logind acts on it wherever udev finds
 * such a key.
 *
 * A press is four events. They go out as the driver has buffers for them, so that a press is
 * never cut short; one more press while they wait is the same press.
 *
 * params: button, pci_slot.
 */
#include <assert.h>
#include <linux/input.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/backend.h"
#include "bus/virtio_transport.h"

#define QUEUE_SIZE 64u
/* A driver sends events one by one; what LEDs it wants lit is of no interest. */
#define REQUEST_BYTES_MAX 4096u

enum { QUEUE_EVENT = 0, QUEUE_STATUS = 1, QUEUE_COUNT = 2 };

/* Configuration space (5.8.4): the driver selects what it wants to know, and reads the answer. */
enum { CONFIG_SELECT = 0, CONFIG_SUBSEL = 1, CONFIG_SIZE = 2, CONFIG_ANSWER = 8 };
enum { ANSWER_MAX = 128, CONFIG_BYTES = CONFIG_ANSWER + ANSWER_MAX };
enum { SELECT_ID_NAME = 0x01, SELECT_ID_DEVIDS = 0x03, SELECT_EV_BITS = 0x11 };

static const char device_name[] = "Trapeze power button";

/* struct virtio_input_event (5.8.6.1). */
enum { EVENT_BYTES = 8 };
static const struct {
    uint16_t type, code;
    uint32_t value;
} press[] = {
    {EV_KEY, KEY_POWER, 1},
    {EV_SYN, SYN_REPORT, 0},
    {EV_KEY, KEY_POWER, 0},
    {EV_SYN, SYN_REPORT, 0},
};

struct virtio_input {
    struct virtio_transport transport; /* first */
    struct power_button *button;
    uint8_t select, subsel;
    uint8_t sent;             /* events of the last press; ARRAY_SIZE(press): all of them */
    struct virtq_chain chain; /* the request being handled */
};

static struct virtio_input *input_of(struct virtio *virtio)
{
    return CONTAINER_OF(virtio, struct virtio_input, transport.virtio);
}

/* --- what it is --- */

/* Writes the answer to what is selected; returns its size, 0 if there is nothing to tell. */
static unsigned answer(const struct virtio_input *input, uint8_t *out)
{
    if (input->select == SELECT_ID_NAME && input->subsel == 0) {
        memcpy(out, device_name, sizeof(device_name) - 1);
        return sizeof(device_name) - 1;
    }
    if (input->select == SELECT_ID_DEVIDS && input->subsel == 0) {
        const uint16_t ids[] = {BUS_VIRTUAL, 0, 0, 1}; /* bus, vendor, product, version */
        for (unsigned i = 0; i < ARRAY_SIZE(ids); i++)
            store_le16(out + 2 * i, ids[i]);
        return sizeof(ids);
    }
    if (input->select == SELECT_EV_BITS && input->subsel == EV_KEY) {
        out[KEY_POWER / 8] = 1u << (KEY_POWER % 8);
        return KEY_POWER / 8 + 1;
    }
    return 0;
}

static void fill_config(struct virtio_input *input)
{
    uint8_t *config = input->transport.virtio.config;
    memset(config, 0, CONFIG_BYTES);
    config[CONFIG_SELECT] = input->select;
    config[CONFIG_SUBSEL] = input->subsel;
    config[CONFIG_SIZE] = (uint8_t)answer(input, config + CONFIG_ANSWER);
}

static void input_config_write(struct virtio *virtio, unsigned offset, uint8_t value)
{
    struct virtio_input *input = input_of(virtio);
    if (offset == CONFIG_SELECT)
        input->select = value;
    else if (offset == CONFIG_SUBSEL)
        input->subsel = value;
    else
        return;
    fill_config(input);
}

/* --- events --- */

/* Lock held. Sends what is left of a press, as far as there are buffers. */
static void send_events(struct virtio_input *input)
{
    struct virtqueue *queue = &input->transport.virtio.queues[QUEUE_EVENT];
    struct virtq_chain *chain = &input->chain;
    while (input->sent < ARRAY_SIZE(press) && virtqueue_pop(queue, chain, REQUEST_BYTES_MAX)) {
        if (chain->in_size < EVENT_BYTES) {
            virtio_violation(&input->transport.virtio, "a buffer is too small for an event");
            return;
        }
        uint8_t event[EVENT_BYTES];
        store_le16(event, press[input->sent].type);
        store_le16(event + 2, press[input->sent].code);
        store_le32(event + 4, press[input->sent].value);
        virtq_write(chain, 0, event, EVENT_BYTES);
        chain->touched = EVENT_BYTES;
        virtqueue_push(queue, chain, EVENT_BYTES);
        input->sent++;
    }
    virtqueue_signal(queue);
}

static bool input_press(void *opaque)
{
    struct virtio_input *input = opaque;
    struct virtio *virtio = &input->transport.virtio;
    const struct virtqueue *queue = &virtio->queues[QUEUE_EVENT];
    pthread_mutex_lock(&input->transport.device.lock);
    bool heard = virtio->active && virtio->dma && queue->enabled && !queue->broken;
    if (heard) {
        if (input->sent == ARRAY_SIZE(press))
            input->sent = 0;
        if (!virtio->quiesced)
            send_events(input);
    }
    pthread_mutex_unlock(&input->transport.device.lock);
    return heard;
}

static bool input_notify(struct virtio *virtio, struct virtqueue *queue)
{
    struct virtio_input *input = input_of(virtio);
    bool more = queue->index == QUEUE_STATUS;
    if (!more)
        send_events(input);
    for (unsigned turn = 0; more && turn < QUEUE_SIZE; turn++) {
        more = virtqueue_pop(queue, &input->chain, REQUEST_BYTES_MAX);
        if (more) {
            input->chain.touched = 0;
            virtqueue_push(queue, &input->chain, 0);
        }
    }
    virtqueue_signal(queue);
    return more;
}

/* --- life --- */

static bool input_deactivate(struct virtio *virtio)
{
    input_of(virtio)->sent = ARRAY_SIZE(press); /* whom it was for is gone */
    return true;
}

static const struct virtio_ops input_ops = {
    .name = "virtio-input",
    .device_id = 18,
    .class_code = 0x098000, /* input device, other */
    .queue_count = QUEUE_COUNT,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_BYTES,
    .deactivate = input_deactivate,
    .notify = input_notify,
    .config_write = input_config_write,
};

static bool input_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct virtio_input *input = CONTAINER_OF(device, struct virtio_input, transport.device);
    assert(params->button != NULL);
    if (!virtio_transport_realize(&input->transport, &input_ops, 0, params, err))
        return false;
    input->button = params->button;
    input->button->device = input;
    input->button->press = input_press;
    return true;
}

static void input_unrealize(struct device *device)
{
    struct virtio_input *input = CONTAINER_OF(device, struct virtio_input, transport.device);
    *input->button = (struct power_button){NULL, NULL};
    virtio_transport_unrealize(device);
}

static void input_reset(struct device *device)
{
    struct virtio_input *input = CONTAINER_OF(device, struct virtio_input, transport.device);
    virtio_transport_reset(device);
    input->sent = ARRAY_SIZE(press);
    input->select = input->subsel = 0;
    fill_config(input);
}

static bool input_post_restore(void *object, struct error **err)
{
    struct virtio_input *input = object;
    if (input->sent > ARRAY_SIZE(press))
        return error_set(err, ERROR_USAGE, "the saved state of '%s' has %u events in a press",
                         input->transport.device.id, input->sent);
    fill_config(input);
    return true;
}

/* "pci" comes before "sent": restoring it deactivates what the device was before, which must not
 * forget the saved press. There is no activate() that would need "sent" earlier. */
static const struct state_field input_fields[] = {
    STATE_STRUCT(struct virtio_input, transport, "pci", &virtio_transport_state),
    STATE_UINT(struct virtio_input, select, "select"),
    STATE_UINT(struct virtio_input, subsel, "subsel"),
    STATE_UINT(struct virtio_input, sent, "sent"),
    STATE_END,
};

static const struct state_table input_state = {"virtio-input", 1, input_fields, NULL,
                                               input_post_restore};

const struct device_ops device_virtio_input = {
    .name = "virtio-input",
    .size = sizeof(struct virtio_input),
    .realize = input_realize,
    .unrealize = input_unrealize,
    .reset = input_reset,
    .state = &input_state,
    .quiesce = virtio_transport_quiesce,
    .unquiesce = virtio_transport_unquiesce,
};
