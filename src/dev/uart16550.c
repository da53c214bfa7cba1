/* SPDX-License-Identifier: MIT
 *
 * National Semiconductor 16550A UART (data sheet PC16550D, June 1995). The line is infinitely
 * fast: a byte written to THR has left before the write returns, so THRE and TEMT are always
 * set, and the "character timeout" of a receive FIFO below its trigger level comes at once.
 *
 * Back pressure instead of overruns: the character backend offers input, the receiver takes
 * what its FIFO (or, without FIFO, its one holding register) has room for and asks for the
 * rest when the guest has read it empty.
 *
 * params: gpa or io_port, irq, irq_number, irq_phandle, chr (NULL: output is lost, there is no
 * input).
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/aml.h"
#include "bus/device.h"
#include "bus/fdt_node.h"
#include "dev/uart16550.h"
#include "mem/mem.h"
#include "net/bucket.h"

#define REGION_SIZE     0x100
#define PORTS           8
#define FIFO_SIZE       16
#define CLOCK_FREQUENCY 3686400
#define BURST_MIN       256 /* bytes: a line of a kernel's */

enum {
    REG_DATA = 0, /* RBR, THR; DLL while LCR.DLAB */
    REG_IER = 1,  /* DLM while LCR.DLAB */
    REG_IIR = 2,  /* FCR when written */
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7
};

enum { IER_RX = 0x01, IER_THRE = 0x02, IER_LINE = 0x04, IER_MODEM = 0x08, IER_MASK = 0x0f };
/* Sources in order of priority (table II of the data sheet). */
enum {
    IIR_NONE = 0x01,
    IIR_LINE = 0x06,
    IIR_RX = 0x04,
    IIR_TIMEOUT = 0x0c,
    IIR_THRE = 0x02,
    IIR_MODEM = 0x00,
    IIR_FIFOS = 0xc0
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04, FCR_KEPT = 0xc9 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum {
    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_MASK = 0x1f
};
enum { LSR_DATA = 0x01, LSR_OVERRUN = 0x02, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum {
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
    MSR_DELTA = 0x0f,
    MSR_LINES = 0xf0
};
enum { MSR_DELTA_RI = 0x04 };

struct uart {
    struct device device;
    struct mem_io io;
    struct mem_space *space; /* that io is in */
    struct irq_line irq;
    unsigned irq_number;
    uint32_t irq_phandle;
    struct char_backend *chr;

    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t msr;
    bool overrun;
    bool thre_pending; /* the transmitter became empty and nobody was told yet */
    uint8_t fifo[FIFO_SIZE];
    uint8_t fifo_first, fifo_count;
    struct net_bucket limit; /* of output; these two are no part of its state */
    uint64_t dropped;        /* bytes */
};

static unsigned fifo_capacity(const struct uart *uart)
{
    return uart->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned trigger_level(const struct uart *uart)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return uart->fcr & FCR_ENABLE ? levels[uart->fcr >> 6] : 1;
}

static uint8_t interrupt_source(const struct uart *uart)
{
    if ((uart->ier & IER_LINE) && uart->overrun)
        return IIR_LINE;
    if ((uart->ier & IER_RX) && uart->fifo_count > 0)
        return uart->fifo_count >= trigger_level(uart) ? IIR_RX : IIR_TIMEOUT;
    if ((uart->ier & IER_THRE) && uart->thre_pending)
        return IIR_THRE;
    if ((uart->ier & IER_MODEM) && (uart->msr & MSR_DELTA))
        return IIR_MODEM;
    return IIR_NONE;
}

static void update_irq(struct uart *uart)
{
    irq_line_set(&uart->irq, interrupt_source(uart) != IIR_NONE);
}

/* ---- receiver ---- */

static void receive(struct uart *uart, uint8_t byte)
{
    if (uart->fifo_count >= fifo_capacity(uart)) {
        uart->overrun = true;
        return;
    }
    uart->fifo[(uart->fifo_first + uart->fifo_count) % FIFO_SIZE] = byte;
    uart->fifo_count++;
}

static void clear_receiver(struct uart *uart)
{
    uart->fifo_first = uart->fifo_count = 0;
}

static uint8_t take_byte(struct uart *uart)
{
    if (uart->fifo_count == 0)
        return 0;
    uint8_t byte = uart->fifo[uart->fifo_first];
    uart->fifo_first = (uint8_t)((uart->fifo_first + 1) % FIFO_SIZE);
    uart->fifo_count--;
    return byte;
}

static size_t uart_input(void *opaque, const uint8_t *data, size_t size)
{
    struct uart *uart = opaque;
    pthread_mutex_lock(&uart->device.lock);
    size_t taken = 0;
    /* In loopback the outside line is cut off. */
    if (!(uart->mcr & MCR_LOOP)) {
        while (taken < size && uart->fifo_count < fifo_capacity(uart))
            receive(uart, data[taken++]);
    }
    update_irq(uart);
    pthread_mutex_unlock(&uart->device.lock);
    return taken;
}

/* After the lock is released: the backend may offer input from inside the call. */
static void resume_input(struct uart *uart)
{
    if (uart->chr != NULL && uart->chr->resume_input != NULL)
        uart->chr->resume_input(uart->chr);
}

/* ---- transmitter and modem lines ---- */

static bool may_leave(struct uart *uart)
{
    if (uart->limit.rate == 0)
        return true;
    if (net_bucket_wait(&uart->limit, vclock_now(uart->device.env->clock)) > 0)
        return false;
    net_bucket_take(&uart->limit, 1);
    return true;
}

static void transmit(struct uart *uart, uint8_t byte)
{
    if (uart->mcr & MCR_LOOP)
        receive(uart, byte);
    else if (!may_leave(uart))
        uart->dropped++;
    else if (uart->chr != NULL)
        uart->chr->write(uart->chr, &byte, 1);
    uart->thre_pending = true;
}

static uint8_t modem_lines(const struct uart *uart)
{
    if (!(uart->mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS; /* somebody is always there */
    return (uint8_t)((uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
                     (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void update_modem(struct uart *uart)
{
    uint8_t lines = modem_lines(uart);
    uint8_t changed = (uint8_t)((uart->msr ^ lines) & MSR_LINES);
    uint8_t delta = (uint8_t)(changed >> 4);
    if (!(uart->msr & MSR_RI) || (lines & MSR_RI))
        delta &= (uint8_t)~MSR_DELTA_RI; /* only its trailing edge counts */
    uart->msr = (uint8_t)(lines | (uart->msr & MSR_DELTA) | delta);
}

/* ---- limits ---- */

void uart16550_limit(struct device *device, uint64_t bytes)
{
    struct uart *uart = CONTAINER_OF(device, struct uart, device);
    pthread_mutex_lock(&device->lock);
    net_bucket_set_of(&uart->limit, bytes, BURST_MIN, vclock_now(device->env->clock));
    pthread_mutex_unlock(&device->lock);
}

uint64_t uart16550_dropped(struct device *device)
{
    struct uart *uart = CONTAINER_OF(device, struct uart, device);
    pthread_mutex_lock(&device->lock);
    uint64_t dropped = uart->dropped;
    pthread_mutex_unlock(&device->lock);
    return dropped;
}

/* ---- registers ---- */

static uint8_t read_iir(struct uart *uart)
{
    uint8_t source = interrupt_source(uart);
    if (source == IIR_THRE)
        uart->thre_pending = false;
    return (uint8_t)(source | (uart->fcr & FCR_ENABLE ? IIR_FIFOS : 0));
}

static uint8_t read_lsr(struct uart *uart)
{
    uint8_t value = (uint8_t)(LSR_THRE | LSR_TEMT | (uart->fifo_count > 0 ? LSR_DATA : 0) |
                              (uart->overrun ? LSR_OVERRUN : 0));
    uart->overrun = false;
    return value;
}

static uint8_t read_msr(struct uart *uart)
{
    uint8_t value = uart->msr;
    uart->msr &= MSR_LINES;
    return value;
}

static uint8_t register_read(struct uart *uart, unsigned reg)
{
    bool divisor = uart->lcr & LCR_DLAB;
    switch (reg) {
    case REG_DATA:
        return divisor ? uart->dll : take_byte(uart);
    case REG_IER:
        return divisor ? uart->dlm : uart->ier;
    case REG_IIR:
        return read_iir(uart);
    case REG_LCR:
        return uart->lcr;
    case REG_MCR:
        return uart->mcr;
    case REG_LSR:
        return read_lsr(uart);
    case REG_MSR:
        return read_msr(uart);
    case REG_SCR:
        return uart->scr;
    default:
        return 0;
    }
}

static void write_ier(struct uart *uart, uint8_t value)
{
    /* Enabling the interrupt of an empty transmitter raises it at once. */
    if ((value & IER_THRE) && !(uart->ier & IER_THRE))
        uart->thre_pending = true;
    uart->ier = value & IER_MASK;
}

static void write_fcr(struct uart *uart, uint8_t value)
{
    bool switched = (value ^ uart->fcr) & FCR_ENABLE;
    if (switched || (value & FCR_CLEAR_RX))
        clear_receiver(uart);
    if (value & FCR_CLEAR_TX)
        uart->thre_pending = true;
    uart->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void register_write(struct uart *uart, unsigned reg, uint8_t value)
{
    bool divisor = uart->lcr & LCR_DLAB;
    switch (reg) {
    case REG_DATA:
        if (divisor)
            uart->dll = value;
        else
            transmit(uart, value);
        break;
    case REG_IER:
        if (divisor)
            uart->dlm = value;
        else
            write_ier(uart, value);
        break;
    case REG_IIR:
        write_fcr(uart, value);
        break;
    case REG_LCR:
        uart->lcr = value;
        break;
    case REG_MCR:
        uart->mcr = value & MCR_MASK;
        update_modem(uart);
        break;
    case REG_SCR:
        uart->scr = value;
        break;
    default: /* LSR and MSR: factory tests only */
        break;
    }
}

/* The receiver became able to take input that it refused before. */
static bool has_room_again(const struct uart *uart, uint8_t count_before, uint8_t mcr_before)
{
    if (uart->mcr & MCR_LOOP)
        return false;
    return (uart->fifo_count == 0 && count_before > 0) || (mcr_before & MCR_LOOP);
}

/* Registers are bytes; wider accesses are those of drivers with reg-io-width, which mean the
 * byte at the address. */
static uint64_t uart_read(void *opaque, uint64_t offset, unsigned size)
{
    struct uart *uart = opaque;
    (void)size;
    pthread_mutex_lock(&uart->device.lock);
    uint8_t count_before = uart->fifo_count;
    uint8_t value = register_read(uart, (unsigned)offset);
    bool resume = has_room_again(uart, count_before, uart->mcr);
    update_irq(uart);
    pthread_mutex_unlock(&uart->device.lock);
    if (resume)
        resume_input(uart);
    return value;
}

static void uart_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct uart *uart = opaque;
    (void)size;
    pthread_mutex_lock(&uart->device.lock);
    uint8_t count_before = uart->fifo_count;
    uint8_t mcr_before = uart->mcr;
    register_write(uart, (unsigned)offset, (uint8_t)value);
    bool resume = has_room_again(uart, count_before, mcr_before);
    update_irq(uart);
    pthread_mutex_unlock(&uart->device.lock);
    if (resume)
        resume_input(uart);
}

static const struct mem_io_ops io_ops = {uart_read, uart_write, 1, 4};

/* ---- life ---- */

static void uart_reset(struct device *device)
{
    struct uart *uart = CONTAINER_OF(device, struct uart, device);
    uart->ier = uart->fcr = uart->lcr = uart->mcr = uart->scr = 0;
    uart->dll = 12; /* 9600 baud with a 1.8432 MHz clock, as firmware of old left it */
    uart->dlm = 0;
    uart->overrun = uart->thre_pending = false;
    memset(uart->fifo, 0, sizeof(uart->fifo));
    clear_receiver(uart);
    uart->msr = modem_lines(uart);
    update_irq(uart);
    resume_input(uart);
}

static bool uart_realize(struct device *device, const struct device_params *params,
                         struct error **err)
{
    struct uart *uart = CONTAINER_OF(device, struct uart, device);
    uart->irq = params->irq;
    uart->irq_number = params->irq_number;
    uart->irq_phandle = params->irq_phandle;
    uart->io = (struct mem_io){
        .name = "uart", .gpa = params->gpa, .size = REGION_SIZE, .ops = &io_ops, .opaque = uart};
    uart->space = device->env->mem;
    if (params->io_port != 0) {
        uart->io.gpa = params->io_port;
        uart->io.size = PORTS;
        uart->space = device->env->ports;
    }
    if (!mem_io_add(uart->space, &uart->io))
        return error_set(err, ERROR_INTERNAL, "its registers overlap another device's");
    uart->chr = params->chr;
    if (uart->chr != NULL) {
        uart->chr->on_input = uart_input;
        uart->chr->device = uart;
    }
    return true;
}

static void uart_unrealize(struct device *device)
{
    struct uart *uart = CONTAINER_OF(device, struct uart, device);
    mem_io_remove(uart->space, &uart->io);
    if (uart->chr != NULL) {
        uart->chr->on_input = NULL;
        uart->chr->device = NULL;
    }
}

static bool uart_fdt(struct device *device, void *fdt)
{
    struct uart *uart = CONTAINER_OF(device, struct uart, device);
    int error = fdt_begin_unit(fdt, "serial", uart->io.gpa);
    error |= fdt_put_string(fdt, "compatible", "ns16550a");
    error |= fdt_put_reg(fdt, uart->io.gpa, uart->io.size);
    error |= fdt_property_u32(fdt, "clock-frequency", CLOCK_FREQUENCY);
    error |= fdt_put_interrupt(fdt, uart->irq_phandle, uart->irq_number);
    error |= fdt_end_node(fdt);
    return error == 0;
}

static void uart_acpi(struct device *device, struct aml *aml)
{
    struct uart *uart = CONTAINER_OF(device, struct uart, device);
    aml_device_begin(aml, "COM1");
    aml_name_eisa(aml, "_HID", "PNP0501");
    aml_name_integer(aml, "_UID", 1);
    aml_resources_begin(aml, "_CRS");
    aml_io(aml, (uint16_t)uart->io.gpa, PORTS);
    aml_interrupt(aml, uart->irq_number, AML_EDGE);
    aml_resources_end(aml);
    aml_end(aml);
}

static bool uart_restored(void *object, struct error **err)
{
    struct uart *uart = object;
    if (uart->fifo_first >= FIFO_SIZE || uart->fifo_count > fifo_capacity(uart))
        return error_set(err, ERROR_USAGE, "the receive FIFO of %s is damaged", uart->device.id);
    uart->ier &= IER_MASK;
    uart->mcr &= MCR_MASK;
    update_irq(uart);
    return true;
}

static const struct state_field uart_fields[] = {
    STATE_UINT(struct uart, ier, "ier"),
    STATE_UINT(struct uart, fcr, "fcr"),
    STATE_UINT(struct uart, lcr, "lcr"),
    STATE_UINT(struct uart, mcr, "mcr"),
    STATE_UINT(struct uart, scr, "scr"),
    STATE_UINT(struct uart, dll, "dll"),
    STATE_UINT(struct uart, dlm, "dlm"),
    STATE_UINT(struct uart, msr, "msr"),
    STATE_BOOL(struct uart, overrun, "overrun"),
    STATE_BOOL(struct uart, thre_pending, "thre_pending"),
    STATE_BYTES(struct uart, fifo, "fifo"),
    STATE_UINT(struct uart, fifo_first, "fifo_first"),
    STATE_UINT(struct uart, fifo_count, "fifo_count"),
    STATE_END,
};
static const struct state_table uart_state = {"uart16550", 1, uart_fields, NULL, uart_restored};

const struct device_ops device_uart16550 = {
    .name = "uart16550",
    .size = sizeof(struct uart),
    .realize = uart_realize,
    .unrealize = uart_unrealize,
    .reset = uart_reset,
    .fdt = uart_fdt,
    .acpi = uart_acpi,
    .state = &uart_state,
};
