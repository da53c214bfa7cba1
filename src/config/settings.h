/* SPDX-License-Identifier: MIT
 *
 * What 'trapeze set' changes of an instance: a key is a row of one table (settings.c). From it come
 * the command's help and completion, the API's schema, what changes in the .vmx, and what a running
 * machine is told of it: one number, as an argument of a verb of its worker's (worker/control.h).
 * Other keys take effect at the next start, or at once where the daemon itself heeds them.
 *
 * Threads: any.
 */
#ifndef TRAPEZE_CONFIG_SETTINGS_H
#define TRAPEZE_CONFIG_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct machine_config;

enum setting_kind {
    SETTING_NUMBER,
    SETTING_SIZE,  /* "512M", "2G"; a bare number counts units */
    SETTING_SWITCH, /* on, off */
    SETTING_WORD,
    SETTING_MOMENT /* as machine_parse_expiry(), or "never"; a char* */
};

/* Devices that a key has the number of: "disk0.iops". */
enum setting_device { SETTING_MACHINE, SETTING_DISK, SETTING_NIC };

/* What the guest itself has to do, as nothing outside can make it: a program for its shell, which gets
 * the value as $1. */
struct setting_in_guest {
    const char *script;
    const char *by_hand; /* the same for a person there, as a clause */
    /* The verb's answer has a member "started": what of it the guest has by now; 0: only it knows. */
};

struct setting {
    const char *name; /* of a device "diskN.iops" */
    const char *form; /* of the value, for people: "1..10000", "SIZE" */
    const char *help;
    enum setting_kind kind;
    bool wide;        /* a uint64_t, not an unsigned */
    enum setting_device device;
    size_t offset;    /* in struct machine_config, or in the device's */
    uint64_t unit;    /* of a bare number, in what the configuration counts */
    const char *verb; /* NULL: the next start */
    const char *argument;
    /* What the verb is told, if not the value itself. */
    uint64_t (*told)(const struct machine_config *config);
    const char *const *words; /* of an enum, in its order; NULL at the end */
    bool at_once; /* nobody has to be told: the daemon looks when the time comes */
    const struct setting_in_guest *in_guest; /* after the verb; NULL: nothing */
};

size_t setting_count(void);
const struct setting *setting_at(size_t index);

/* The row of "cpu-weight" or "disk0.iops", and the device's number. NULL: err, with the nearest. */
const struct setting *setting_find(const char *key, unsigned *number, struct error **err);

/* Changes config by the value's text; the caller checks the whole of it then. */
bool setting_apply(struct machine_config *config, const char *key, const char *value,
                   struct error **err);

/* What the row's verb is told; config has been applied to. */
uint64_t setting_told(const struct setting *setting, const struct machine_config *config,
                      unsigned number);

#endif
