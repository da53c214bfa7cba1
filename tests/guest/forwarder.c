/* SPDX-License-Identifier: MIT
 *
 * A bad cable between two tap devices, for kernels without netem: frames that come from one go to
 * the other, late, in another order, or not at all.
 *
 *     forwarder FD_A FD_B SEED      taps without offload headers, inherited
 *
 * Lines on standard input set what happens from then on, in both directions:
 *     delay=US loss=PERMILLE reorder=PERMILLE cut=0|1
 * "reorder": so many frames are overtaken by those of the next LATE_NS. "cut": none arrives. After
 * each line it prints how many frames it has "passed", "lost" and let be "overtaken". It ends with
 * its input.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MAX = 2048, WAITING_MAX = 4096 };
#define NS      UINT64_C(1000000000)
#define LATE_NS UINT64_C(5000000)

struct frame {
    uint64_t due, number;
    size_t size;
    uint8_t data[FRAME_MAX];
};

/* A heap, by when they are due and, if that is the same, by when they came. */
struct way {
    int from, to;
    size_t count;
    struct frame *waiting[WAITING_MAX];
};

static struct {
    uint64_t delay, loss, reorder, cut;
} cable;
static uint64_t passed, lost, overtaken, numbers, seed;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS + (uint64_t)time.tv_nsec;
}

static bool happens(uint64_t permille)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % 1000 < permille;
}

static bool before(const struct frame *one, const struct frame *two)
{
    return one->due != two->due ? one->due < two->due : one->number < two->number;
}

static void add(struct way *way, struct frame *frame)
{
    size_t at = way->count++;
    for (; at > 0 && before(frame, way->waiting[(at - 1) / 2]); at = (at - 1) / 2)
        way->waiting[at] = way->waiting[(at - 1) / 2];
    way->waiting[at] = frame;
}

static struct frame *take(struct way *way)
{
    struct frame *first = way->waiting[0], *last = way->waiting[--way->count];
    size_t at = 0;
    for (size_t next; (next = 2 * at + 1) < way->count; at = next) {
        if (next + 1 < way->count && before(way->waiting[next + 1], way->waiting[next]))
            next++;
        if (!before(way->waiting[next], last))
            break;
        way->waiting[at] = way->waiting[next];
    }
    way->waiting[at] = last;
    return first;
}

static void come(struct way *way)
{
    static struct frame frame;
    ssize_t size;
    while ((size = read(way->from, frame.data, sizeof(frame.data))) > 0) {
        if (cable.cut != 0 || happens(cable.loss) || way->count == WAITING_MAX) {
            lost++;
            continue;
        }
        bool late = happens(cable.reorder);
        overtaken += late;
        struct frame *copy = malloc(sizeof(*copy));
        if (copy == NULL)
            abort();
        copy->due = now() + cable.delay * 1000 + (late ? LATE_NS : 0);
        copy->number = numbers++;
        copy->size = (size_t)size;
        memcpy(copy->data, frame.data, copy->size);
        add(way, copy);
    }
}

/* Those that are due; an interface that is not up loses them. */
static void go(struct way *way)
{
    while (way->count > 0 && way->waiting[0]->due <= now()) {
        struct frame *frame = take(way);
        if (cable.cut == 0 && write(way->to, frame->data, frame->size) == (ssize_t)frame->size)
            passed++;
        else
            lost++;
        free(frame);
    }
}

static void obey(char *line)
{
    static const struct {
        const char *name;
        uint64_t *value;
    } known[] = {{"delay", &cable.delay},
                 {"loss", &cable.loss},
                 {"reorder", &cable.reorder},
                 {"cut", &cable.cut}};
    for (char *rest, *word = strtok_r(line, " \n", &rest); word != NULL;
         word = strtok_r(NULL, " \n", &rest)) {
        char *value = strchr(word, '=');
        bool good = false;
        for (size_t i = 0; value != NULL && i < sizeof(known) / sizeof(known[0]); i++)
            if (strlen(known[i].name) == (size_t)(value - word) &&
                strncmp(known[i].name, word, (size_t)(value - word)) == 0) {
                *known[i].value = strtoull(value + 1, NULL, 10);
                good = true;
            }
        if (!good)
            exit(2);
    }
    printf("passed %" PRIu64 " lost %" PRIu64 " overtaken %" PRIu64 "\n", passed, lost, overtaken);
    fflush(stdout);
}

/* False: there will be none any more. */
static bool hear(void)
{
    static char text[256];
    static size_t size;
    ssize_t got = read(STDIN_FILENO, text + size, sizeof(text) - 1 - size);
    if (got <= 0)
        return false;
    size += (size_t)got;
    for (char *end; (end = memchr(text, '\n', size)) != NULL;) {
        *end = '\0';
        size_t length = (size_t)(end + 1 - text);
        obey(text);
        memmove(text, text + length, size - length);
        size -= length;
    }
    return size < sizeof(text) - 1;
}

static struct timespec until_due(const struct way ways[2])
{
    uint64_t first = UINT64_MAX, time = now();
    for (int i = 0; i < 2; i++)
        if (ways[i].count > 0 && ways[i].waiting[0]->due < first)
            first = ways[i].waiting[0]->due;
    uint64_t left = first == UINT64_MAX ? NS : first > time ? first - time : 0;
    return (struct timespec){.tv_sec = (time_t)(left / NS), .tv_nsec = (long)(left % NS)};
}

int main(int argc, char **argv)
{
    static struct way ways[2];
    if (argc != 4)
        return 2;
    int a = atoi(argv[1]), b = atoi(argv[2]);
    seed = strtoull(argv[3], NULL, 10) | 1;
    ways[0].from = ways[1].to = a;
    ways[1].from = ways[0].to = b;
    for (;;) {
        struct pollfd wait[] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        struct timespec timeout = until_due(ways);
        if (ppoll(wait, 3, &timeout, NULL) < 0 && errno != EINTR)
            return 1;
        if (wait[2].revents != 0 && !hear())
            return 0;
        for (int i = 0; i < 2; i++) {
            if (wait[i].revents != 0)
                come(&ways[i]);
            go(&ways[i]);
        }
    }
}
