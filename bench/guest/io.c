/* SPDX-License-Identifier: MIT
 *
 * Rows about a machine's disks and network: only in a guest that bench.py has given two disks, a
 * network and the port of its own server (bench_port in the environment).
 *
 * Each disk is three regions: one to read, filled with what block_word() says; one to write; one
 * that the host has never written, to allocate in. All requests bypass the guest's page cache and
 * are asynchronous, DEPTH at a time. What is read is checked; what was written is read back after
 * the clock has stopped.
 */
#define _GNU_SOURCE /* O_DIRECT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "drivers.h"
#include "rows.h"

#define BLOCK         4096u
#define REGION_BLOCKS 16384u /* 64 MiB; a power of two */
#define LARGE         (128u << 10)
#define DEPTH         32
#define SMALL_COUNT   32768u /* twice each block of a region */
#define LARGE_COUNT   4096u  /* 512 MiB */
#define ONCE_COUNT    (REGION_BLOCKS / (LARGE / BLOCK))

#define TCP_BYTES  (96u << 20)
#define TCP_BUFFER (128u << 10)

enum { REGION_READ, REGION_WRITE, REGION_NEW };
enum { FROM_DISK, TO_DISK, TO_HOST, FROM_HOST };

struct io_row {
    const char *name, *what, *unit;
    double amount; /* of the unit's numerator, in one run */
    int kind;
    const char *disk;
    unsigned region, bytes, count;
};

#define DISK_ROWS(name, disk)                                                                      \
    {name "_randread", "4 KiB random reads, 32 at a time, " name,                                  \
     "IOPS",           SMALL_COUNT,                                                                \
     FROM_DISK,        disk,                                                                       \
     REGION_READ,      BLOCK,                                                                      \
     SMALL_COUNT},                                                                                 \
        {name "_randwrite",                                                                        \
         "4 KiB random writes, 32 at a time, " name,                                               \
         "IOPS",                                                                                   \
         SMALL_COUNT,                                                                              \
         TO_DISK,                                                                                  \
         disk,                                                                                     \
         REGION_WRITE,                                                                             \
         BLOCK,                                                                                    \
         SMALL_COUNT},                                                                             \
        {name "_read", "128 KiB sequential reads, 32 at a time, " name,                            \
         "MB/s",       1e-6 * LARGE * LARGE_COUNT,                                                 \
         FROM_DISK,    disk,                                                                       \
         REGION_READ,  LARGE,                                                                      \
         LARGE_COUNT},                                                                             \
        {name "_write", "128 KiB sequential writes, 32 at a time, " name,                          \
         "MB/s",        1e-6 * LARGE * LARGE_COUNT,                                                \
         TO_DISK,       disk,                                                                      \
         REGION_WRITE,  LARGE,                                                                     \
         LARGE_COUNT},                                                                             \
    {                                                                                              \
        name "_new", "64 MiB written in sequence where nothing was yet, " name, "MB/s",            \
            1e-6 * LARGE *ONCE_COUNT, TO_DISK, disk, REGION_NEW, LARGE, ONCE_COUNT                 \
    }

static const struct io_row rows[] = {
    DISK_ROWS("raw", "/dev/vda"),
    DISK_ROWS("qcow2", "/dev/vdb"),
    {"tcp_send", "TCP from the guest to the host, through NAT", "MB/s", 1e-6 * TCP_BYTES, TO_HOST,
     NULL, 0, 0, 0},
    {"tcp_receive", "TCP from the host to the guest, through NAT", "MB/s", 1e-6 * TCP_BYTES,
     FROM_HOST, NULL, 0, 0, 0},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* --- disks --- */

/* The first and last word of a block; bench/devices.py fills whole blocks with it. */
static uint64_t block_word(uint64_t block)
{
    return (block + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

/* A permutation of a region's blocks that goes to and fro. */
static uint64_t scatter(uint64_t i)
{
    i = i * 0x2545 % REGION_BLOCKS;
    i ^= i >> 7;
    return i * 0x1a85 % REGION_BLOCKS;
}

static uint64_t place(const struct io_row *row, unsigned i)
{
    uint64_t start = (uint64_t)row->region * REGION_BLOCKS;
    if (row->bytes == BLOCK)
        return start + scatter(i);
    return start + (uint64_t)i * (row->bytes / BLOCK) % REGION_BLOCKS;
}

static void fill(uint8_t *data, uint64_t block, unsigned bytes)
{
    for (unsigned at = 0; at < bytes; at += BLOCK) {
        uint64_t word = block_word(block++);
        memcpy(data + at, &word, sizeof(word));
        memcpy(data + at + BLOCK - sizeof(word), &word, sizeof(word));
    }
}

static uint64_t check(const uint8_t *data, uint64_t block, unsigned bytes)
{
    uint64_t sum = 0;
    for (unsigned at = 0; at < bytes; at += BLOCK) {
        uint64_t first, last, word = block_word(block++);
        memcpy(&first, data + at, sizeof(first));
        memcpy(&last, data + at + BLOCK - sizeof(last), sizeof(last));
        if (first != word || last != word) {
            errno = EILSEQ;
            fail("what was read is not what was written");
        }
        sum += first ^ last >> 1;
    }
    return sum;
}

struct transfer {
    const struct io_row *row;
    int fd;
    uint8_t *buffers;
    struct iocb requests[DEPTH];
};

static void prepare(struct transfer *transfer, unsigned slot, unsigned number)
{
    const struct io_row *row = transfer->row;
    uint64_t block = place(row, number);
    uint8_t *buffer = transfer->buffers + (size_t)slot * row->bytes;
    if (row->kind == TO_DISK)
        fill(buffer, block, row->bytes);
    transfer->requests[slot] = (struct iocb){
        .aio_data = slot,
        .aio_lio_opcode = row->kind == TO_DISK ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)transfer->fd,
        .aio_buf = (uint64_t)(uintptr_t)buffer,
        .aio_nbytes = row->bytes,
        .aio_offset = (int64_t)(block * BLOCK),
    };
}

static uint64_t take(struct transfer *transfer, const struct io_event *event)
{
    const struct io_row *row = transfer->row;
    const struct iocb *request = &transfer->requests[event->data];
    if (event->res != (int64_t)row->bytes) {
        errno = event->res < 0 ? (int)-event->res : EIO;
        fail("a request");
    }
    if (row->kind == TO_DISK)
        return 0;
    return check((const uint8_t *)(uintptr_t)request->aio_buf,
                 (uint64_t)request->aio_offset / BLOCK, row->bytes);
}

static void submit(aio_context_t context, struct iocb **list, long count)
{
    for (long done = 0; done < count;) {
        long taken = syscall(SYS_io_submit, context, count - done, list + done);
        if (taken <= 0)
            fail("io_submit");
        done += taken;
    }
}

/* What came back makes room for as many new ones, submitted together. */
static uint64_t transfer_all(struct transfer *transfer)
{
    aio_context_t context = 0;
    struct iocb *list[DEPTH];
    struct io_event events[DEPTH];
    unsigned count = transfer->row->count, next = 0;
    uint64_t sum = 0;
    if (syscall(SYS_io_setup, DEPTH, &context) != 0)
        fail("io_setup");
    start_clock();
    for (; next < DEPTH && next < count; next++) {
        prepare(transfer, next, next);
        list[next] = &transfer->requests[next];
    }
    submit(context, list, next);
    for (unsigned done = 0; done < count;) {
        long got = syscall(SYS_io_getevents, context, 1, DEPTH, events, NULL), more = 0;
        if (got <= 0)
            fail("io_getevents");
        for (long i = 0; i < got; i++, done++) {
            sum += take(transfer, &events[i]);
            if (next == count)
                continue;
            unsigned slot = (unsigned)events[i].data;
            prepare(transfer, slot, next++);
            list[more++] = &transfer->requests[slot];
        }
        submit(context, list, more);
    }
    stop_clock(); /* as fio does: what the host's disk takes for a flush is no part of it */
    if (transfer->row->kind == TO_DISK && fdatasync(transfer->fd) != 0)
        fail("fdatasync");
    syscall(SYS_io_destroy, context);
    return sum;
}

static uint64_t read_back(const struct transfer *transfer)
{
    uint64_t first = (uint64_t)transfer->row->region * REGION_BLOCKS, sum = 0;
    for (uint64_t block = first; block < first + REGION_BLOCKS; block += LARGE / BLOCK) {
        if (pread(transfer->fd, transfer->buffers, LARGE, (off_t)(block * BLOCK)) != LARGE)
            fail("pread");
        sum += check(transfer->buffers, block, LARGE);
    }
    return sum;
}

static uint64_t run_disk(const struct io_row *row)
{
    struct transfer transfer = {.row = row, .fd = open(row->disk, O_RDWR | O_DIRECT)};
    if (transfer.fd < 0)
        fail(row->disk);
    transfer.buffers = aligned_alloc(BLOCK, (size_t)DEPTH * LARGE);
    if (!transfer.buffers)
        fail("memory");
    memset(transfer.buffers, 0, (size_t)DEPTH * LARGE);
    uint64_t sum = transfer_all(&transfer);
    if (row->kind == TO_DISK)
        sum = read_back(&transfer);
    close(transfer.fd);
    free(transfer.buffers);
    return sum;
}

/* --- network --- */

static int connect_to_host(void)
{
    const char *port = getenv("bench_port");
    struct sockaddr_in host = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)atoi(port ? port : "0"))};
    inet_pton(AF_INET, "10.0.2.2", &host.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&host, sizeof(host)) != 0)
        fail("no connection to the host's server");
    return fd;
}

static void write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t put = write(fd, data, size);
        if (put <= 0)
            fail("write");
        data += put;
        size -= (size_t)put;
    }
}

static size_t read_all(int fd, uint8_t *data, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, data + done, size - done);
        if (got < 0)
            fail("read");
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return done;
}

/* The stream repeats TCP_BUFFER bytes of fill()'s; the server compares all of it and says how many
 * bytes were right. */
static uint64_t run_tcp(const struct io_row *row)
{
    configure_interface("10.0.2.15");
    int fd = connect_to_host();
    uint8_t *data = calloc(1, TCP_BUFFER);
    uint64_t sum = 0;
    if (!data)
        fail("memory");
    fill(data, 0, TCP_BUFFER);
    start_clock();
    write_all(fd, (const uint8_t *)(row->kind == TO_HOST ? "S" : "R"), 1);
    for (size_t done = 0; done < TCP_BYTES; done += TCP_BUFFER) {
        if (row->kind == TO_HOST) {
            write_all(fd, data, TCP_BUFFER);
            continue;
        }
        if (read_all(fd, data, TCP_BUFFER) != TCP_BUFFER)
            fail("the host's stream is short");
        sum += check(data, 0, TCP_BUFFER);
    }
    if (row->kind == TO_HOST) {
        shutdown(fd, SHUT_WR);
        if (read_all(fd, (uint8_t *)&sum, sizeof(sum)) != sizeof(sum) || sum != TCP_BYTES) {
            errno = EILSEQ;
            fail("the host did not get what was sent");
        }
    }
    stop_clock();
    close(fd);
    free(data);
    return sum;
}

/* --- all --- */

const struct io_row *find_io_row(const char *name)
{
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

uint64_t run_io_row(const struct io_row *row)
{
    return row->kind == TO_HOST || row->kind == FROM_HOST ? run_tcp(row) : run_disk(row);
}

void list_io_rows(void)
{
    for (size_t i = 0; i < ROWS; i++)
        printf("%s %.9g %s %s\n", rows[i].name, rows[i].amount, rows[i].unit, rows[i].what);
}
