/* SPDX-License-Identifier: MIT
 *
 * See settings.h.
 */
#include "config/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "config/machine.h"
#include "config/suggest.h"

/* The part of its memory that the guest is to keep. */
static uint64_t kept_memory(const struct machine_config *config)
{
    bool limited = config->balloon_size != 0 && config->balloon_size < config->memory;
    return limited ? config->balloon_size : config->memory;
}

#define MACHINE(member) SETTING_MACHINE, offsetof(struct machine_config, member)
#define DISK(member)    SETTING_DISK, offsetof(struct machine_disk, member)
#define NIC(member)     SETTING_NIC, offsetof(struct machine_nic, member)
/* In the order of enum machine_restart. */
static const char *const restart_words[] = {"no", "on-failure", "always", NULL};

/* Linux, admin-guide/cpu-hotplug: the last ones are switched off first. One without a file cannot be. */
static const struct setting_in_guest switch_cpus = {
    "at=/sys/devices/system/cpu; all=0; on=0; i=0\n"
    "is_on() { [ ! -e $at/cpu$1/online ] || [ \"$(cat $at/cpu$1/online)\" = 1 ]; }\n"
    "while [ -d $at/cpu$all ]; do is_on $all && on=$((on + 1)); all=$((all + 1)); done\n"
    "while [ $on -lt $1 ] && [ $i -lt $all ]; do\n"
    "  is_on $i || { echo 1 >$at/cpu$i/online && on=$((on + 1)); }; i=$((i + 1)); done\n"
    "i=$all\n"
    "while [ $on -gt $1 ] && [ $i -gt 0 ]; do i=$((i - 1))\n"
    "  if is_on $i; then echo 0 >$at/cpu$i/online && on=$((on - 1)); fi; done\n"
    "[ $on -eq $1 ]\n",
    "in Linux, as root: echo 0 > /sys/devices/system/cpu/cpu1/online switches one off, echo 1 on",
};

static const struct setting settings[] = {
    {"cpus", "1..8",
     "Virtual CPUs. A Linux guest that 'trapeze ssh' reaches switches them on and off while it runs, "
     "as many as max-cpus says there is room for; other guests have them from the next start on.",
     SETTING_NUMBER, false, MACHINE(cpus), 1, "cpus", "count", NULL, NULL, false, &switch_cpus},
    {"max-cpus", "1..8",
     "How many virtual CPUs there is room for, from the next start on; 0: no more than cpus.",
     SETTING_NUMBER, false, MACHINE(max_cpus), 1, NULL, NULL, NULL, NULL, false, NULL},
    {"cpu-weight", "0..10000",
     "The machine's part of CPUs that several of your machines want at once; 100 for those "
     "without, "
     "0 takes it back.",
     SETTING_NUMBER, false, MACHINE(cpu_weight), 1, "cpu", "weight", NULL, NULL, false, NULL},
    {"cpu-cap", "PERCENT", "How much of one CPU the machine uses at most; 0: no limit.",
     SETTING_NUMBER, false, MACHINE(cpu_cap), 1, "cpu", "cap", NULL, NULL, false, NULL},
    {"memory", "SIZE",
     "Guest memory. A running guest with a balloon gives memory up, and takes it back up to what "
     "it "
     "was started with; more than that comes with the next start.",
     SETTING_SIZE, true, MACHINE(memory), MIB, "balloon", "size", kept_memory, NULL, false, NULL},
    {"memory-limit", "SIZE", "How much of its memory a guest with a balloon keeps; 0: all.",
     SETTING_SIZE, true, MACHINE(balloon_size), MIB, "balloon", "size", kept_memory, NULL, false, NULL},
    {"balloon", "on|off", "Whether the guest has a memory balloon, from the next start on.",
     SETTING_SWITCH, false, MACHINE(balloon), 1, NULL, NULL, NULL, NULL, false, NULL},
    {"code-cache", "SIZE",
     "Memory for the translations of each vCPU, from the next start on; 0: the default, 64M.",
     SETTING_SIZE, true, MACHINE(code_cache), MIB, NULL, NULL, NULL, NULL, false, NULL},
    {"diskN.iops", "N",
     "Requests that disk N (counted from 0) may be asked for in a second; 0: no limit.",
     SETTING_NUMBER, true, DISK(iops), 1, "limit", "iops", NULL, NULL, false, NULL},
    {"diskN.bps", "SIZE", "Bytes in a second; 0: no limit.", SETTING_SIZE, true, DISK(bps), 1,
     "limit", "bps", NULL, NULL, false, NULL},
    {"netN.rate", "KBIT",
     "Kilobits in a second that NIC N may send, and as many that it may receive; 0: no limit.",
     SETTING_NUMBER, true, NIC(rate), 1, "rate", "kbit", NULL, NULL, false, NULL},
    {"autostart", "on|off", "Whether the daemon starts it with the host.", SETTING_SWITCH, false,
     MACHINE(autostart), 1, NULL, NULL, NULL, NULL, true, NULL},
    {"restart", "no|on-failure|always", "When the daemon starts it again after its end.",
     SETTING_WORD, false, MACHINE(restart), 1, NULL, NULL, NULL, restart_words, true, NULL},
    {"restart-tries", "N", "How often in a row; 0: for ever.", SETTING_NUMBER, false,
     MACHINE(restart_tries), 1, NULL, NULL, NULL, NULL, true, NULL},
    {"expires", "WHEN",
     "When it is no longer needed, and 'prune' proposes to delete it: a day such as 2026-12-24, a moment "
     "of UTC (2026-12-24T18:00:00Z), how long from now (12h, 30d, 8w), or never.",
     SETTING_MOMENT, false, MACHINE(expires), 1, NULL, NULL, NULL, NULL, true, NULL},
};
#undef MACHINE
#undef DISK
#undef NIC

size_t setting_count(void)
{
    return ARRAY_SIZE(settings);
}

const struct setting *setting_at(size_t index)
{
    return &settings[index];
}

/* "disk12.iops" as "diskN.iops" and 12; false: it is no key of that form. */
static bool take_number(const char *key, char name[40], unsigned *number)
{
    size_t word = strcspn(key, "0123456789"), digits = strspn(key + word, "0123456789");
    *number = 0;
    if (strlen(key) >= 36)
        return false;
    if (key[word + digits] != '.' || digits == 0 || digits > 4) {
        snprintf(name, 40, "%s", key);
        return true;
    }
    *number = (unsigned)atoi(key + word);
    snprintf(name, 40, "%.*sN%s", (int)word, key, key + word + digits);
    return true;
}

const struct setting *setting_find(const char *key, unsigned *number, struct error **err)
{
    char name[40];
    struct suggest suggest;
    bool fits = take_number(key, name, number);
    for (size_t i = 0; fits && i < ARRAY_SIZE(settings); i++)
        /* "diskN.iops" itself is no key. */
        if (strcmp(settings[i].name, name) == 0 &&
            (settings[i].device == SETTING_MACHINE || strcmp(key, name) != 0))
            return &settings[i];
    error_set(err, ERROR_USAGE, "there is no key '%.40s'", key);
    suggest_start(&suggest, fits ? name : "");
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        suggest_offer(&suggest, settings[i].name);
    if (suggest.best != NULL)
        error_hint(err, "Did you mean %s?", suggest.best);
    else
        error_hint(err, "'trapeze set --help' has them all.");
    return NULL;
}

/* The device that the key has the number of; the machine itself for other keys. NULL: err. */
static const char *owner_of(const struct setting *setting, const struct machine_config *config,
                            unsigned number, struct error **err)
{
    const size_t counts[] = {1, config->disk_count, config->nic_count};
    const void *const firsts[] = {config, config->disks, config->nics};
    static const size_t sizes[] = {0, sizeof(struct machine_disk), sizeof(struct machine_nic)};
    if (number < counts[setting->device])
        return (const char *)firsts[setting->device] + number * sizes[setting->device];
    error_set(err, ERROR_USAGE, "there is no %s %u",
              setting->device == SETTING_DISK ? "disk" : "NIC", number);
    if (counts[setting->device] == 0)
        error_hint(err, "The machine has none.");
    else
        error_hint(err, "They are counted from 0 to %zu.", counts[setting->device] - 1);
    return NULL;
}

/* "512M" in bytes, or what counts the units of a bare number. */
static bool parse_size(const char *text, uint64_t unit, uint64_t *bytes)
{
    static const char letters[] = "KMGT";
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    unsigned long long number = strtoull(text, &end, 10);
    const char *letter = *end != '\0' ? strchr(letters, toupper((unsigned char)*end)) : NULL;
    if (*end != '\0' && letter == NULL)
        return false;
    if (letter != NULL)
        unit = UINT64_C(1) << 10 * (letter - letters + 1);
    if (letter != NULL && end[1] != '\0' && strcmp(end + 1, "iB") != 0 && strcmp(end + 1, "B") != 0)
        return false;
    return errno == 0 && !__builtin_mul_overflow(number, unit, bytes);
}

static bool parse_value(const struct setting *setting, const char *text, uint64_t *value)
{
    char *end;
    int64_t moment;
    switch (setting->kind) {
    case SETTING_NUMBER:
        errno = 0;
        *value = strtoull(text, &end, 10);
        return isdigit((unsigned char)text[0]) && *end == '\0' && errno == 0 &&
               (setting->wide ? *value < UINT64_C(1) << 40 : *value <= UINT32_MAX);
    case SETTING_SIZE:
        return parse_size(text, setting->unit, value) && *value < UINT64_C(1) << 60;
    case SETTING_SWITCH:
        *value = strcmp(text, "on") == 0;
        return *value == 1 || strcmp(text, "off") == 0;
    case SETTING_WORD:
        for (*value = 0; setting->words[*value] != NULL; ++*value)
            if (strcmp(setting->words[*value], text) == 0)
                return true;
        return false;
    case SETTING_MOMENT: /* 0: never, which no moment is */
        *value = 0;
        if (strcmp(text, "never") == 0)
            return true;
        *value = machine_parse_expiry(text, (int64_t)time(NULL), &moment) ? (uint64_t)moment : 0;
        return *value != 0;
    }
    return false;
}

static void put_moment(char **member, uint64_t value)
{
    char text[24];
    free(*member);
    machine_print_time((int64_t)value, text);
    *member = value != 0 ? strdup(text) : NULL;
}

bool setting_apply(struct machine_config *config, const char *key, const char *text,
                   struct error **err)
{
    unsigned number;
    uint64_t value;
    const struct setting *setting = setting_find(key, &number, err);
    const char *owner = setting != NULL ? owner_of(setting, config, number, err) : NULL;
    if (owner == NULL)
        return false;
    if (!parse_value(setting, text, &value)) {
        static const char *const kinds[] = {"number that makes sense", "size", "switch",
                                            "word for it", "day or moment"};
        error_set(err, ERROR_USAGE, "%s: '%.80s' is no %s", key, text, kinds[setting->kind]);
        error_hint(err, setting->kind == SETTING_SIZE ? "Write 512M or 2G." : "It takes %s.",
                   setting->form);
        return false;
    }
    void *member = (void *)(uintptr_t)(owner + setting->offset);
    if (setting->kind == SETTING_SWITCH)
        *(bool *)member = value != 0;
    else if (setting->kind == SETTING_MOMENT)
        put_moment(member, value);
    else if (setting->wide)
        *(uint64_t *)member = value;
    else
        *(unsigned *)member = (unsigned)value;
    if (config->balloon_size != 0) /* a limit without a balloon would limit nothing */
        config->balloon = true;
    return true;
}

uint64_t setting_told(const struct setting *setting, const struct machine_config *config,
                      unsigned number)
{
    const char *owner = owner_of(setting, config, number, NULL);
    if (setting->told != NULL || owner == NULL)
        return setting->told != NULL ? setting->told(config) : 0;
    const void *member = owner + setting->offset;
    if (setting->kind == SETTING_SWITCH)
        return *(const bool *)member;
    return setting->wide ? *(const uint64_t *)member : *(const unsigned *)member;
}
