/* SPDX-License-Identifier: MIT
 *
 * The guest of crash.py: no operating system, a driver of virtio-blk (VIRTIO 1.2, 5.2) and a load.
 *
 * It prints "?" and reads a number N from the console. Then it carries out operation N, N + 1 ...
 * for ever, up to SLOTS at a time: what operation i does follows from i alone (crash.py: the same
 * function). After each FLUSH_EVERY-th it waits for all, flushes, and prints how many operations
 * are now safe, as a decimal number and a newline.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define UART      ((volatile u8 *)0x10000000)
#define FINISHER  ((volatile u32 *)0x100000)
#define ECAM      0x30000000ul
#define BAR       0x40000000ul
#define PCI_SLOTS 32

enum { SLOTS = 16, SECTORS_MAX = 64, SECTOR = 512, FLUSH_EVERY = 32, QUEUE_SIZE = 64 };
enum { WRITE = 1, FLUSH = 4, WRITE_ZEROES = 13 }; /* request types */
enum { NEXT = 1, DEVICE_WRITES = 2 };             /* descriptor flags */

struct descriptor {
    u64 address;
    u32 length;
    u16 flags, next;
};

static struct {
    struct descriptor table[QUEUE_SIZE];
    struct {
        u16 flags, index, ring[QUEUE_SIZE], event;
    } available;
    struct {
        u16 flags, index;
        struct {
            u32 id, length;
        } ring[QUEUE_SIZE];
        u16 event;
    } used __attribute__((aligned(4096)));
} queue __attribute__((aligned(4096)));

static struct slot {
    struct {
        u32 type, reserved;
        u64 sector;
    } header;
    struct {
        u64 sector;
        u32 count, flags;
    } zeroes;
    u64 first, count; /* sectors it changes */
    u8 busy;
    volatile u8 status;
    u64 data[SECTORS_MAX * SECTOR / 8];
} slots[SLOTS];

static volatile u8 *common, *notify;
static u64 sectors;
static u16 used_seen;

__asm__(".section .text.start, \"ax\"\n"
        ".globl _start\n"
        "_start:\n"
        "    csrr a0, mhartid\n"
        "1:  bnez a0, 1b\n"
        "    la sp, stack + 4096\n"
        "    call work\n"
        "    .text\n");

char stack[4096] __attribute__((aligned(16)));

/* --- console --- */

static void put(char byte)
{
    while ((UART[5] & 0x20) == 0)
        ;
    UART[0] = (u8)byte;
}

static void put_number(u64 number)
{
    char digits[24];
    int count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    while (count > 0)
        put(digits[--count]);
    put('\n');
}

static u64 get_number(void)
{
    u64 number = 0;
    for (;;) {
        while ((UART[5] & 1) == 0)
            ;
        u8 byte = UART[0];
        if (byte < '0' || byte > '9')
            return number;
        number = number * 10 + byte - '0';
    }
}

__attribute__((noreturn)) static void fail(u32 status)
{
    *FINISHER = status << 16 | 0x3333;
    for (;;)
        ;
}

/* --- the device --- */

static volatile u8 *find_device(void)
{
    for (u64 slot = 0; slot < PCI_SLOTS; slot++) {
        volatile u8 *config = (volatile u8 *)(ECAM + (slot << 15));
        if (*(volatile u32 *)config == 0x10421af4)
            return config;
    }
    fail(1);
}

/* The structures behind the vendor's capabilities (4.1.4), all in BAR 0. */
static void map(volatile u8 *config, volatile u8 **device)
{
    u32 multiplier = 0;
    *(volatile u32 *)(config + 0x10) = (u32)BAR;
    *(volatile u32 *)(config + 0x14) = 0;
    *(volatile u16 *)(config + 4) = 6; /* memory, bus master */
    for (u8 at = config[0x34]; at != 0; at = config[at + 1]) {
        if (config[at] != 9)
            continue;
        volatile u8 *there = (volatile u8 *)(BAR + *(volatile u32 *)(config + at + 8));
        switch (config[at + 3]) {
        case 1:
            common = there;
            break;
        case 2:
            notify = there;
            multiplier = *(volatile u32 *)(config + at + 16);
            break;
        case 4:
            *device = there;
            break;
        }
    }
    if (common == 0 || notify == 0 || *device == 0)
        fail(2);
    *(volatile u16 *)(common + 0x16) = 0; /* queue 0 */
    notify += multiplier * *(volatile u16 *)(common + 0x1e);
}

static void put_address(u32 at, const volatile void *address)
{
    *(volatile u32 *)(common + at) = (u32)(u64)address;
    *(volatile u32 *)(common + at + 4) = (u32)((u64)address >> 32);
}

static void start_device(void)
{
    static const u32 features[] = {1u << 9 | 1u << 14, 1}; /* flush, write-zeroes; version 1 */
    volatile u8 *device = 0, *config = find_device();
    map(config, &device);
    common[0x14] = 0;
    common[0x14] = 1 | 2;
    for (u32 i = 0; i < 2; i++) {
        *(volatile u32 *)(common + 0x00) = i;
        if ((*(volatile u32 *)(common + 0x04) & features[i]) != features[i])
            fail(3);
        *(volatile u32 *)(common + 0x08) = i;
        *(volatile u32 *)(common + 0x0c) = features[i];
    }
    common[0x14] = 1 | 2 | 8;
    *(volatile u16 *)(common + 0x18) = QUEUE_SIZE;
    put_address(0x20, queue.table);
    put_address(0x28, &queue.available);
    put_address(0x30, &queue.used);
    *(volatile u16 *)(common + 0x1c) = 1;
    common[0x14] = 1 | 2 | 8 | 4;
    sectors = *(volatile u64 *)device;
}

static void submit(u32 number, const void *data, u32 length)
{
    struct descriptor *chain = &queue.table[3 * number];
    struct slot *slot = &slots[number];
    u16 first = (u16)(3 * number);
    chain[0] = (struct descriptor){(u64)&slot->header, 16, NEXT, (u16)(first + (length ? 1 : 2))};
    chain[1] = (struct descriptor){(u64)data, length, NEXT, (u16)(first + 2)};
    chain[2] = (struct descriptor){(u64)&slot->status, 1, DEVICE_WRITES, 0};
    slot->busy = 1;
    slot->status = 0xff;
    queue.available.ring[queue.available.index % QUEUE_SIZE] = first;
    __asm__ volatile("fence" ::: "memory");
    *(volatile u16 *)&queue.available.index = (u16)(queue.available.index + 1);
    __asm__ volatile("fence" ::: "memory");
    *(volatile u16 *)notify = 0;
}

static void reap(void)
{
    while (used_seen != *(volatile u16 *)&queue.used.index) {
        __asm__ volatile("fence" ::: "memory");
        struct slot *slot = &slots[queue.used.ring[used_seen % QUEUE_SIZE].id / 3];
        if (slot->status != 0)
            fail(4);
        slot->busy = 0;
        used_seen++;
    }
}

static void wait_for_all(void)
{
    for (u32 i = 0; i < SLOTS; i++)
        while (*(volatile u8 *)&slots[i].busy)
            reap();
}

/* --- the load --- */

static u64 mix(u64 z)
{
    z *= 0x9e3779b97f4a7c15ul;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ul;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebul;
    return z ^ (z >> 31);
}

static u32 free_slot(u64 first, u64 count)
{
    for (;;) {
        u32 found = SLOTS, clash = 0;
        reap();
        for (u32 i = 0; i < SLOTS; i++) {
            if (!slots[i].busy)
                found = i;
            else if (slots[i].first < first + count && first < slots[i].first + slots[i].count)
                clash = 1;
        }
        if (found < SLOTS && !clash)
            return found;
    }
}

static void operate(u64 operation)
{
    u64 random = mix(operation), most = (random >> 12 & 3) == 0 ? SECTORS_MAX : 8;
    u64 count = 1 + (random >> 4 & 63) % most, first = (random >> 20) % (sectors - count);
    u32 number = free_slot(first, count);
    struct slot *slot = &slots[number];
    slot->first = first;
    slot->count = count;
    slot->header.sector = first;
    if ((random & 15) == 0) {
        slot->header.type = WRITE_ZEROES;
        slot->header.sector = 0;
        slot->zeroes.sector = first;
        slot->zeroes.count = (u32)count;
        slot->zeroes.flags = random >> 16 & 1; /* unmap */
        submit(number, &slot->zeroes, 16);
        return;
    }
    slot->header.type = WRITE;
    for (u64 i = 0; i < count * SECTOR / 8; i += 2) {
        slot->data[i] = first + i / (SECTOR / 8);
        slot->data[i + 1] = operation;
    }
    submit(number, slot->data, (u32)count * SECTOR);
}

__attribute__((noreturn)) void work(void)
{
    start_device();
    put('?');
    for (u64 operation = get_number();;) {
        operate(operation++);
        if (operation % FLUSH_EVERY != 0)
            continue;
        wait_for_all();
        slots[0].header.type = FLUSH;
        slots[0].header.sector = 0;
        slots[0].count = 0;
        submit(0, 0, 0);
        wait_for_all();
        put_number(operation);
    }
}
