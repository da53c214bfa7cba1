/* SPDX-License-Identifier: MIT
 *
 * Intel 8042, the PC's keyboard controller. Most machines have nothing plugged in, and what is left
 * of it is that it resets the machine: the board's tables do not name it, so that systems do not
 * wait for a keyboard; those that write to it without asking find a controller that answers.
 *
 * With a keyboard it is named. That one speaks scan code set 2 (IBM's of the PS/2), which the
 * controller passes on as it is (bit 6 of the command byte stays 0), and knows one chord.
 *
 * params: io_port (of the data port; the other one is four behind it), keyboard (NULL: there is
 * none), irq, irq_number.
 */
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "bus/aml.h"
#include "bus/device.h"
#include "mem/mem.h"

enum { PORT_DATA = 0, PORT_COMMAND = 4 };
enum {
    STATUS_OUTPUT = 1 << 0,
    STATUS_SYSTEM = 1 << 2,
    STATUS_COMMAND = 1 << 3,
    STATUS_UNLOCKED = 1 << 4
};
enum {
    COMMAND_READ = 0x20,  /* the command byte, */
    COMMAND_WRITE = 0x60, /* which follows at the data port */
    COMMAND_TEST = 0xaa,
    COMMAND_TEST_KEYBOARD = 0xab,
    COMMAND_NO_KEYBOARD = 0xad,
    COMMAND_KEYBOARD = 0xae,
    COMMAND_READ_OUTPUT = 0xd0,
    COMMAND_WRITE_OUTPUT = 0xd1,
    COMMAND_PULSE = 0xf0 /* the low bits that are 0 */
};
enum {
    BYTE_INTERRUPT = 1 << 0,
    BYTE_SYSTEM = 1 << 2,
    BYTE_NO_KEYBOARD = 1 << 4,
    BYTE_NO_MOUSE = 1 << 5,
    BYTE_TRANSLATE = 1 << 6
};
enum { OUTPUT_NO_RESET = 1 << 0, OUTPUT_A20 = 1 << 1 };
enum { TEST_PASSED = 0x55, LINES_FINE = 0 };

/* Of the keyboard. */
enum {
    KEYS_LEDS = 0xed, /* an argument follows, as it does two below */
    KEYS_ECHO = 0xee,
    KEYS_SET = 0xf0,
    KEYS_IDENTIFY = 0xf2,
    KEYS_RATE = 0xf3,
    KEYS_ON = 0xf4,
    KEYS_OFF = 0xf5,
    KEYS_DEFAULTS = 0xf6,
    KEYS_RESET = 0xff
};
enum { SAYS_WELL = 0xaa, SAYS_DONE = 0xfa, SAYS_AGAIN = 0xfe };
enum { SCAN_SET = 2, KEYS_MAX = 16 };

struct i8042 {
    struct device device;
    struct mem_io data, command;
    struct keyboard *keyboard; /* NULL: none is plugged in */
    struct irq_line irq;
    unsigned irq_number;

    uint8_t byte;     /* the command byte */
    uint8_t awaited;  /* the command whose data comes next; 0: none */
    uint8_t output;   /* for who reads the data port, */
    bool full;        /* if there is something */
    bool was_command; /* the last write went to the command port */
    bool from_keys;   /* `output` is the keyboard's */

    uint8_t said[KEYS_MAX], said_count; /* by the keyboard, and not in `output` yet */
    uint8_t asked;                      /* its command whose argument comes next; 0: none */
    bool silent;                        /* it does not say what keys are pressed */
};

static void reply(struct i8042 *self, uint8_t value)
{
    self->output = value;
    self->full = true;
    self->from_keys = false;
}

/* ---- the keyboard ---- */

static void say(struct i8042 *self, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count && self->said_count < KEYS_MAX; i++)
        self->said[self->said_count++] = bytes[i];
}

/* What it says next goes into an empty output, unless its clock is held. */
static void hear(struct i8042 *self)
{
    if (!self->full && self->said_count > 0 && (self->byte & BYTE_NO_KEYBOARD) == 0) {
        reply(self, self->said[0]);
        self->from_keys = true;
        memmove(self->said, self->said + 1, --self->said_count);
    }
    irq_line_set(&self->irq, self->full && self->from_keys && (self->byte & BYTE_INTERRUPT) != 0);
}

static void tell_keyboard(struct i8042 *self, uint8_t value)
{
    static const uint8_t done = SAYS_DONE, again = SAYS_AGAIN, echo = KEYS_ECHO;
    static const uint8_t identity[] = {SAYS_DONE, 0xab, 0x83}, well[] = {SAYS_DONE, SAYS_WELL};
    static const uint8_t which_set[] = {SAYS_DONE, SCAN_SET};
    uint8_t asked = self->asked;
    self->asked = 0;
    self->said_count = 0; /* who asks wants the answer next */
    if (asked == KEYS_SET && value == 0)
        say(self, which_set, sizeof(which_set));
    else if (asked != 0)
        say(self, asked != KEYS_SET || value == SCAN_SET ? &done : &again, 1);
    else if (value == KEYS_LEDS || value == KEYS_SET || value == KEYS_RATE) {
        self->asked = value;
        say(self, &done, 1);
    } else if (value == KEYS_IDENTIFY)
        say(self, identity, sizeof(identity));
    else if (value == KEYS_ECHO)
        say(self, &echo, 1);
    else if (value == KEYS_ON || value == KEYS_OFF || value == KEYS_DEFAULTS) {
        self->silent = value == KEYS_OFF;
        say(self, &done, 1);
    } else if (value == KEYS_RESET) {
        self->silent = false;
        say(self, well, sizeof(well));
    } else
        say(self, &again, 1);
}

/* Left Ctrl, left Alt and Del, down and up. */
static bool press_chord(void *device)
{
    static const uint8_t chord[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0,
                                    0x71, 0xf0, 0x11, 0xf0, 0x14};
    struct i8042 *self = CONTAINER_OF((struct device *)device, struct i8042, device);
    pthread_mutex_lock(&self->device.lock);
    bool heard = !self->silent && KEYS_MAX - self->said_count >= (int)sizeof(chord);
    if (heard)
        say(self, chord, sizeof(chord));
    hear(self);
    pthread_mutex_unlock(&self->device.lock);
    return heard;
}

/* ---- the controller ---- */

static void reset_machine(struct i8042 *self)
{
    const struct device_env *env = self->device.env;
    env->power(env->machine, DEVICE_POWER_RESET, 0);
}

static void set_byte(struct i8042 *self, uint8_t value)
{
    self->byte = value & (uint8_t) ~(self->keyboard != NULL ? BYTE_TRANSLATE : 0);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *self = opaque;
    (void)offset, (void)size;
    pthread_mutex_lock(&self->device.lock);
    uint8_t value = self->output;
    self->full = false;
    irq_line_set(&self->irq, false); /* so that what comes next is another edge */
    hear(self);
    pthread_mutex_unlock(&self->device.lock);
    return value;
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *self = opaque;
    (void)offset, (void)size;
    pthread_mutex_lock(&self->device.lock);
    self->was_command = false;
    if (self->awaited == COMMAND_WRITE)
        set_byte(self, (uint8_t)value);
    else if (self->awaited == COMMAND_WRITE_OUTPUT && (value & OUTPUT_NO_RESET) == 0)
        reset_machine(self);
    else if (self->awaited == 0 && self->keyboard != NULL)
        tell_keyboard(self, (uint8_t)value);
    self->awaited = 0;
    hear(self);
    pthread_mutex_unlock(&self->device.lock);
}

static uint64_t command_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *self = opaque;
    (void)offset, (void)size;
    pthread_mutex_lock(&self->device.lock);
    uint64_t status = STATUS_UNLOCKED | (self->byte & BYTE_SYSTEM ? STATUS_SYSTEM : 0) |
                      (self->was_command ? STATUS_COMMAND : 0) | (self->full ? STATUS_OUTPUT : 0);
    pthread_mutex_unlock(&self->device.lock);
    return status;
}

static void obey(struct i8042 *self, uint8_t command)
{
    self->awaited = 0;
    switch (command) {
    case COMMAND_READ:
        reply(self, self->byte);
        break;
    case COMMAND_WRITE:
    case COMMAND_WRITE_OUTPUT:
        self->awaited = command;
        break;
    case COMMAND_TEST:
        self->byte |= BYTE_SYSTEM;
        reply(self, TEST_PASSED);
        break;
    case COMMAND_TEST_KEYBOARD:
        reply(self, LINES_FINE);
        break;
    case COMMAND_NO_KEYBOARD:
        self->byte |= BYTE_NO_KEYBOARD;
        break;
    case COMMAND_KEYBOARD:
        self->byte &= (uint8_t)~BYTE_NO_KEYBOARD;
        break;
    case COMMAND_READ_OUTPUT:
        reply(self, OUTPUT_NO_RESET | OUTPUT_A20);
        break;
    default:
        if (command >= COMMAND_PULSE && (command & OUTPUT_NO_RESET) == 0)
            reset_machine(self);
        break;
    }
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *self = opaque;
    (void)offset, (void)size;
    pthread_mutex_lock(&self->device.lock);
    self->was_command = true;
    obey(self, (uint8_t)value);
    hear(self);
    pthread_mutex_unlock(&self->device.lock);
}

static const struct mem_io_ops data_ops = {data_read, data_write, 1, 1};
static const struct mem_io_ops command_ops = {command_read, command_write, 1, 1};

static void i8042_reset(struct device *device)
{
    struct i8042 *self = CONTAINER_OF(device, struct i8042, device);
    self->byte = BYTE_NO_KEYBOARD | BYTE_NO_MOUSE;
    self->awaited = self->output = self->asked = self->said_count = 0;
    self->full = self->was_command = self->from_keys = self->silent = false;
    hear(self);
}

static void i8042_unrealize(struct device *device)
{
    struct i8042 *self = CONTAINER_OF(device, struct i8042, device);
    mem_io_remove(device->env->ports, &self->data);
    mem_io_remove(device->env->ports, &self->command);
    if (self->keyboard != NULL)
        *self->keyboard = (struct keyboard){NULL, NULL};
}

static bool i8042_realize(struct device *device, const struct device_params *params,
                          struct error **err)
{
    struct i8042 *self = CONTAINER_OF(device, struct i8042, device);
    self->data = (struct mem_io){.name = "i8042-data",
                                 .gpa = params->io_port + PORT_DATA,
                                 .size = 1,
                                 .ops = &data_ops,
                                 .opaque = self};
    self->command = (struct mem_io){.name = "i8042-command",
                                    .gpa = params->io_port + PORT_COMMAND,
                                    .size = 1,
                                    .ops = &command_ops,
                                    .opaque = self};
    if (!mem_io_add(device->env->ports, &self->data) ||
        !mem_io_add(device->env->ports, &self->command)) {
        i8042_unrealize(device);
        return error_set(err, ERROR_INTERNAL, "its ports overlap another device's");
    }
    self->keyboard = params->keyboard;
    if (self->keyboard != NULL) {
        self->irq = params->irq;
        self->irq_number = params->irq_number;
        *self->keyboard = (struct keyboard){press_chord, device};
    }
    return true;
}

static void i8042_acpi(struct device *device, struct aml *aml)
{
    const struct i8042 *self = CONTAINER_OF(device, struct i8042, device);
    if (self->keyboard == NULL)
        return;
    aml_device_begin(aml, "KBD_");
    aml_name_eisa(aml, "_HID", "PNP0303");
    aml_resources_begin(aml, "_CRS");
    aml_io(aml, (uint16_t)self->data.gpa, 1);
    aml_io(aml, (uint16_t)self->command.gpa, 1);
    aml_interrupt(aml, self->irq_number, AML_EDGE);
    aml_resources_end(aml);
    aml_end(aml);
}

static bool i8042_restored(void *object, struct error **err)
{
    struct i8042 *self = object;
    if (self->said_count > KEYS_MAX || (self->keyboard == NULL && self->said_count > 0))
        return error_set(err, ERROR_USAGE, "what the keyboard of %s says is damaged",
                         self->device.id);
    set_byte(self, self->byte);
    hear(self);
    return true;
}

/* What version 1, without keyboards, did not have. */
#define SINCE_2(kind, member) STATE_SINCE(2, kind, struct i8042, member, #member)

static const struct state_field i8042_fields[] = {
    STATE_UINT(struct i8042, byte, "byte"),
    STATE_UINT(struct i8042, awaited, "awaited"),
    STATE_UINT(struct i8042, output, "output"),
    STATE_BOOL(struct i8042, full, "full"),
    STATE_BOOL(struct i8042, was_command, "was_command"),
    SINCE_2(STATE_KIND_BOOL, from_keys),
    SINCE_2(STATE_KIND_BYTES, said),
    SINCE_2(STATE_KIND_UINT, said_count),
    SINCE_2(STATE_KIND_UINT, asked),
    SINCE_2(STATE_KIND_BOOL, silent),
    STATE_END,
};
static const struct state_table i8042_state = {"i8042", 2, i8042_fields, NULL, i8042_restored};

const struct device_ops device_i8042 = {
    .name = "i8042",
    .size = sizeof(struct i8042),
    .realize = i8042_realize,
    .unrealize = i8042_unrealize,
    .reset = i8042_reset,
    .acpi = i8042_acpi,
    .state = &i8042_state,
};
