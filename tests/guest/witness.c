/* SPDX-License-Identifier: MIT
 *
 * A guest that notices whatever is lost, doubled or damaged while its machine is saved, moved or
 * cloned, and says so at once. A static program of Linux; bench/initramfs.py appends it to the tiny
 * image's initramfs as /bench:
 *
 *     console=ttyS0 rdinit=/bench -- tick=2 dirty=50 set=128 disk=/dev/vda tcp=10.0.2.2:4000
 *
 * Words behind the "--" (what is not named is not done):
 *
 *     tick=MS      a line "t N" every MS milliseconds, N from 1 (a thread of real-time priority)
 *     set=MIB      memory full of a pattern that is looked through all the time
 *     check=PAGES  so many of its pages a second, 1000 unless given
 *     dirty=MIB    of it so many MiB are written to each second, page after page; each visit of a
 *                  page is checked against those before
 *     writers=N    in so many threads, each with its own part of the set (1)
 *     disk=DEVICE  records of 4 KiB with fdatasync, round and round in its first `slots` blocks;
 *                  word i of record n is pattern(n, i), the first one n itself; after each a random
 *                  one is read back
 *     slots=N      256 unless given
 *     rate=N       records a second, 20 unless given
 *     tcp=IP:PORT  a stream of words pattern(STREAM, i), of which whoever is there sends every byte
 *                  back (an echo server) and may check it too (witness.py)
 *     kib=N        of it a second, 256 unless given
 *     own=IP       eth0's address, 10.0.2.15 unless given, in a network of 24 bits
 *     spoil=S      after so many seconds it changes one bit of the set, which it has to find
 *
 * Words are 64 bits, little-endian. Lines on its console:
 *
 *     witness-ready        all of it is under way
 *     t N
 *     d N                  record N is on the disk, and so are all before it
 *     sum t=.. visits=.. late=.. checked=.. d=.. sent=.. echoed=..
 *                          every second; late: visits that were due and are given up, as the
 *                          machine is slower than that
 *     witness-failed WHAT  and nothing else from then on, once a second, for ever
 */
#define _GNU_SOURCE /* O_DIRECT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "drivers.h"

enum { PAGE = 4096, WORDS = PAGE / 8, STRIDE = 64, WRITERS_MAX = 8, AHEAD = 256 << 10 };
#define STREAM UINT64_C(0x7463702073747265)
#define NS     INT64_C(1000000000)

static struct {
    uint64_t tick, set, check, dirty, writers, slots, rate, kib, spoil;
    const char *disk, *tcp, *own;
} options = {.check = 1000, .writers = 1, .slots = 256, .rate = 20, .kib = 256, .own = "10.0.2.15"};

static _Atomic uint64_t ticks, visits, late, checked, records, sent, echoed;
static _Atomic bool failed;
static char failure[200];

/* ---- saying ---- */

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        return; /* a console that is gone has no reader */
}

/* The first one only; whoever finds it ends. */
static void __attribute__((format(printf, 1, 2), noreturn)) found(const char *format, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!atomic_load(&failed)) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(failure, sizeof(failure), format, arguments);
        va_end(arguments);
        atomic_store(&failed, true);
    }
    pthread_mutex_unlock(&lock);
    for (;;) {
        say("witness-failed %s\n", failure);
        sleep(1);
    }
}

void fail(const char *what)
{
    found("%s: %s", what, strerror(errno));
}

/* ---- time ---- */

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS + time.tv_nsec;
}

static void sleep_until(int64_t then)
{
    struct timespec time = {.tv_sec = then / NS, .tv_nsec = then % NS};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
}

/* Keeps a pace of `each` ns; what is more than a tenth of a second late is not made up for. Returns
 * how many turns that leaves out. */
static uint64_t pace(int64_t *next, int64_t each)
{
    uint64_t left_out = 0;
    *next += each;
    int64_t behind = now() - *next;
    if (behind > NS / 10) {
        left_out = (uint64_t)(behind / each);
        *next += (int64_t)left_out * each;
    }
    sleep_until(*next);
    while (atomic_load(&failed))
        pause();
    return left_out;
}

static void *tick(void *unused)
{
    const struct sched_param priority = {.sched_priority = 50};
    (void)unused;
    if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority) != 0)
        fail("real-time priority");
    for (int64_t next = now();;) {
        say("t %" PRIu64 "\n", atomic_fetch_add(&ticks, 1) + 1);
        pace(&next, (int64_t)options.tick * (NS / 1000));
    }
}

/* ---- patterns ---- */

static uint64_t pattern(uint64_t of, uint64_t i)
{
    uint64_t z = (of + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ z >> 31;
}

/* ---- memory ----
 *
 * A page's word 0 says how often it was visited, the table says it too. Visit v writes the words
 * whose index is v modulo STRIDE, so that what every word has to be follows from the number of
 * visits. */

struct part {
    uint64_t *words;
    uint32_t *visited;
    uint64_t first, pages; /* first: the number of words[0]'s page */
    uint64_t next_visit, next_check;
};

static uint64_t word_of(uint64_t page, uint64_t i, uint64_t visit)
{
    return pattern(page << 32 | visit, i);
}

/* The visit that wrote word i last, when there were `count`; 0: none. */
static uint64_t last_visit(uint64_t count, uint64_t i)
{
    uint64_t since = (count - i) % STRIDE;
    return since < count ? count - since : 0;
}

static void compare(const struct part *part, uint64_t page, uint64_t i, uint64_t visit)
{
    uint64_t is = part->words[page * WORDS + i], wanted = word_of(part->first + page, i, visit);
    if (is != wanted)
        found("memory: page %" PRIu64 " word %" PRIu64 " is %016" PRIx64 ", not %016" PRIx64
              " of visit %" PRIu64 " of %" PRIu32,
              part->first + page, i, is, wanted, visit, part->visited[page]);
}

static void compare_count(const struct part *part, uint64_t page)
{
    uint64_t is = part->words[page * WORDS],
             wanted = (part->first + page) << 32 | part->visited[page];
    if (is != wanted)
        found("memory: page %" PRIu64 " says %016" PRIx64 ", the table %016" PRIx64,
              part->first + page, is, wanted);
}

static void visit(struct part *part, uint64_t page)
{
    compare_count(part, page);
    uint64_t number = part->visited[page] + UINT64_C(1), *words = part->words + page * WORDS;
    for (uint64_t i = number % STRIDE == 0 ? STRIDE : number % STRIDE; i < WORDS; i += STRIDE) {
        compare(part, page, i, last_visit(number - 1, i));
        words[i] = word_of(part->first + page, i, number);
    }
    part->visited[page]++;
    words[0] = (part->first + page) << 32 | part->visited[page];
}

static void check(const struct part *part, uint64_t page)
{
    compare_count(part, page);
    for (uint64_t i = 1; i < WORDS; i++)
        compare(part, page, i, last_visit(part->visited[page], i));
}

static void lay_out(struct part *part, uint64_t number, uint64_t pages)
{
    *part = (struct part){.first = number * pages, .pages = pages};
    part->words = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    part->visited = calloc(pages, sizeof(*part->visited));
    if (part->words == MAP_FAILED || part->visited == NULL)
        fail("memory");
    for (uint64_t page = 0; page < pages; page++) {
        part->words[page * WORDS] = (part->first + page) << 32;
        for (uint64_t i = 1; i < WORDS; i++)
            part->words[page * WORDS + i] = word_of(part->first + page, i, 0);
    }
}

/* Turns of a thousandth of a second. */
static void *live_in(void *opaque)
{
    struct part *part = opaque;
    const uint64_t per_second = options.dirty * (UINT64_C(1048576) / PAGE) / options.writers;
    const uint64_t checks = options.check / options.writers;
    uint64_t owed = 0, owed_checks = 0;
    for (int64_t next = now(); !atomic_load(&failed);) {
        for (owed += per_second; owed >= 1000; owed -= 1000) {
            visit(part, part->next_visit);
            part->next_visit = (part->next_visit + 1) % part->pages;
            atomic_fetch_add(&visits, 1);
        }
        for (owed_checks += checks; owed_checks >= 1000; owed_checks -= 1000) {
            check(part, part->next_check);
            part->next_check = (part->next_check + 1) % part->pages;
            atomic_fetch_add(&checked, 1);
        }
        atomic_fetch_add(&late, pace(&next, NS / 1000) * per_second / 1000);
    }
    return NULL;
}

/* ---- disk ---- */

static void fill(uint64_t *record, uint64_t number)
{
    record[0] = number;
    for (uint64_t i = 1; i < WORDS; i++)
        record[i] = pattern(number, i);
}

static off_t place(uint64_t number)
{
    return (off_t)(number % options.slots * PAGE);
}

static void read_back(int fd, uint64_t *record, uint64_t number)
{
    if (pread(fd, record, PAGE, place(number)) != PAGE)
        fail("reading the disk");
    if (record[0] != number)
        found("disk: where record %" PRIu64 " should be is %" PRIu64, number, record[0]);
    for (uint64_t i = 1; i < WORDS; i++)
        if (record[i] != pattern(number, i))
            found("disk: record %" PRIu64 " is damaged at word %" PRIu64, number, i);
}

static void *write_disk(void *unused)
{
    int fd = open(options.disk, O_RDWR | O_DIRECT);
    uint64_t *record = aligned_alloc(PAGE, PAGE);
    (void)unused;
    if (fd < 0 || record == NULL)
        fail(options.disk);
    for (int64_t next = now();;) {
        uint64_t number = atomic_load(&records) + 1;
        fill(record, number);
        if (pwrite(fd, record, PAGE, place(number)) != PAGE || fdatasync(fd) != 0)
            fail("writing the disk");
        atomic_store(&records, number);
        say("d %" PRIu64 "\n", number);
        uint64_t back = pattern(number, 0) % (number < options.slots ? number : options.slots);
        read_back(fd, record, number - back);
        pace(&next, NS / (int64_t)options.rate);
    }
}

/* ---- TCP ---- */

static int connect_there(void)
{
    char host[64];
    struct sockaddr_in to = {.sin_family = AF_INET};
    const char *colon = strchr(options.tcp, ':');
    if (colon == NULL || (size_t)(colon - options.tcp) >= sizeof(host))
        found("tcp=%s is no IP:PORT", options.tcp);
    snprintf(host, sizeof(host), "%.*s", (int)(colon - options.tcp), options.tcp);
    to.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1)
        found("tcp=%s is no IP:PORT", options.tcp);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof(to)) != 0)
        fail("no connection to the echo server");
    return fd;
}

static void *send_stream(void *opaque)
{
    const int fd = *(const int *)opaque;
    uint64_t words[1024 / 8], number = 0;
    for (int64_t next = now();;) {
        for (size_t i = 0; i < sizeof(words) / 8; i++)
            words[i] = pattern(STREAM, number++);
        for (size_t done = 0; done < sizeof(words);) {
            ssize_t put = write(fd, (const char *)words + done, sizeof(words) - done);
            if (put <= 0)
                fail("sending");
            done += (size_t)put;
        }
        atomic_fetch_add(&sent, sizeof(words));
        do
            pace(&next, NS / (int64_t)options.kib);
        while (atomic_load(&sent) - atomic_load(&echoed) > AHEAD);
    }
}

static void *receive_stream(void *opaque)
{
    const int fd = *(const int *)opaque;
    uint8_t bytes[16384];
    for (uint64_t at = 0;;) {
        ssize_t got = read(fd, bytes, sizeof(bytes));
        if (got < 0)
            fail("receiving");
        if (got == 0)
            found("the echo server has closed the connection behind %" PRIu64 " bytes", at);
        for (ssize_t i = 0; i < got; i++, at++)
            if (bytes[i] != (uint8_t)(pattern(STREAM, at / 8) >> at % 8 * 8))
                found("tcp: byte %" PRIu64 " of the echo is wrong", at);
        atomic_store(&echoed, at);
    }
}

/* ---- all ---- */

static void read_options(int count, char **words)
{
    static const struct {
        const char *name;
        uint64_t *number;
        const char **text;
    } known[] = {
        {"tick", &options.tick, NULL},       {"set", &options.set, NULL},
        {"check", &options.check, NULL},     {"dirty", &options.dirty, NULL},
        {"writers", &options.writers, NULL}, {"slots", &options.slots, NULL},
        {"rate", &options.rate, NULL},       {"kib", &options.kib, NULL},
        {"disk", NULL, &options.disk},       {"tcp", NULL, &options.tcp},
        {"own", NULL, &options.own},         {"spoil", &options.spoil, NULL},
    };
    for (int w = 0; w < count; w++) {
        size_t length = strcspn(words[w], "="), i = 0;
        while (i < sizeof(known) / sizeof(known[0]) &&
               (strlen(known[i].name) != length || memcmp(known[i].name, words[w], length) != 0))
            i++;
        if (i == sizeof(known) / sizeof(known[0]) || words[w][length] == '\0')
            found("no word is called %s", words[w]);
        if (known[i].text != NULL)
            *known[i].text = words[w] + length + 1;
        else
            *known[i].number = strtoull(words[w] + length + 1, NULL, 10);
    }
    if (options.writers == 0 || options.writers > WRITERS_MAX || options.slots == 0 ||
        options.rate == 0 || options.kib == 0)
        found("writers are 1 to %d; slots, rate and kib are not 0", WRITERS_MAX);
}

static void start(void *(*run)(void *), void *opaque)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, opaque) != 0)
        fail("a thread");
}

int main(int argc, char **argv)
{
    static struct part parts[WRITERS_MAX];
    static int connection;
    uint64_t seconds = 0;
    if (getpid() == 1)
        klogctl(8, NULL, 1); /* no kernel message may cut our lines in two */
    read_options(argc - 1, argv + 1);
    if (getpid() == 1 && (options.disk != NULL || options.tcp != NULL))
        load_io_drivers();
    for (uint64_t i = 0; options.set != 0 && i < options.writers; i++)
        lay_out(&parts[i], i, options.set * (UINT64_C(1048576) / PAGE) / options.writers);
    if (options.tcp != NULL) {
        if (getpid() == 1)
            configure_interface(options.own);
        connection = connect_there();
        start(send_stream, &connection);
        start(receive_stream, &connection);
    }
    if (options.disk != NULL)
        start(write_disk, NULL);
    for (uint64_t i = 0; options.set != 0 && i < options.writers; i++)
        start(live_in, &parts[i]);
    say("witness-ready\n");
    if (options.tick != 0)
        start(tick, NULL);
    for (int64_t next = now();;) {
        pace(&next, NS);
        if (++seconds == options.spoil && options.set != 0)
            parts[0].words[parts[0].pages / 2 * WORDS + WORDS / 3] ^= 1 << 20;
        say("sum t=%" PRIu64 " visits=%" PRIu64 " late=%" PRIu64 " checked=%" PRIu64 " d=%" PRIu64
            " sent=%" PRIu64 " echoed=%" PRIu64 "\n",
            atomic_load(&ticks), atomic_load(&visits), atomic_load(&late), atomic_load(&checked),
            atomic_load(&records), atomic_load(&sent), atomic_load(&echoed));
    }
}
