/* SPDX-License-Identifier: MIT
 *
 * Intel 8042, the PC's keyboard controller, with nothing plugged in: what is left of it is that it
 * resets the machine. The board's tables do not name it, so that systems do not wait for a
 * keyboard; those that write to it without asking find a controller that answers.
 *
 * params: io_port (of the data port; the other one is four behind it).
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
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
enum { BYTE_SYSTEM = 1 << 2, BYTE_NO_KEYBOARD = 1 << 4, BYTE_NO_MOUSE = 1 << 5 };
enum { OUTPUT_NO_RESET = 1 << 0, OUTPUT_A20 = 1 << 1 };
enum { TEST_PASSED = 0x55, LINES_FINE = 0 };

struct i8042 {
    struct device device;
    struct mem_io data, command;

    uint8_t byte;     /* the command byte */
    uint8_t awaited;  /* the command whose data comes next; 0: none */
    uint8_t output;   /* for who reads the data port, */
    bool full;        /* if there is something */
    bool was_command; /* the last write went to the command port */
};

static void reply(struct i8042 *self, uint8_t value)
{
    self->output = value;
    self->full = true;
}

static void reset_machine(struct i8042 *self)
{
    const struct device_env *env = self->device.env;
    env->power(env->machine, DEVICE_POWER_RESET, 0);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *self = opaque;
    (void)offset, (void)size;
    pthread_mutex_lock(&self->device.lock);
    uint8_t value = self->output;
    self->full = false;
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
        self->byte = (uint8_t)value;
    else if (self->awaited == COMMAND_WRITE_OUTPUT && (value & OUTPUT_NO_RESET) == 0)
        reset_machine(self);
    self->awaited = 0; /* what is for the keyboard nobody hears */
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
    pthread_mutex_unlock(&self->device.lock);
}

static const struct mem_io_ops data_ops = {data_read, data_write, 1, 1};
static const struct mem_io_ops command_ops = {command_read, command_write, 1, 1};

static void i8042_reset(struct device *device)
{
    struct i8042 *self = CONTAINER_OF(device, struct i8042, device);
    self->byte = BYTE_NO_KEYBOARD | BYTE_NO_MOUSE;
    self->awaited = self->output = 0;
    self->full = self->was_command = false;
}

static void i8042_unrealize(struct device *device)
{
    struct i8042 *self = CONTAINER_OF(device, struct i8042, device);
    mem_io_remove(device->env->ports, &self->data);
    mem_io_remove(device->env->ports, &self->command);
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
    if (mem_io_add(device->env->ports, &self->data) &&
        mem_io_add(device->env->ports, &self->command))
        return true;
    i8042_unrealize(device);
    return error_set(err, ERROR_INTERNAL, "its ports overlap another device's");
}

static const struct state_field i8042_fields[] = {
    STATE_UINT(struct i8042, byte, "byte"),
    STATE_UINT(struct i8042, awaited, "awaited"),
    STATE_UINT(struct i8042, output, "output"),
    STATE_BOOL(struct i8042, full, "full"),
    STATE_BOOL(struct i8042, was_command, "was_command"),
    STATE_END,
};
static const struct state_table i8042_state = {"i8042", 1, i8042_fields, NULL, NULL};

const struct device_ops device_i8042 = {
    .name = "i8042",
    .size = sizeof(struct i8042),
    .realize = i8042_realize,
    .unrealize = i8042_unrealize,
    .reset = i8042_reset,
    .state = &i8042_state,
};
