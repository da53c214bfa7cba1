/* SPDX-License-Identifier: MIT
 *
 * The .vmx format: a text is written back byte for byte, and what is changed in it reads back as
 * it was set; a description survives text and back, and an update with what a text says already
 * changes nothing.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "config/nvram.h"
#include "config/text.h"
#include "config/vmx.h"

static void check_same(const struct text *text, const char *bytes, size_t size)
{
    size_t written;
    char *again = text_write(text, &written);
    fuzz_check(written == size && memcmp(again, bytes, size) == 0);
    free(again);
}

/* Sets some values to bytes of the input, and adds and removes keys. */
static void check_changes(struct text *text, const char *bytes, size_t size)
{
    static const char *const added[] = {"memsize", "scsi0:0.mode", "trapeze.fuzz", "A"};
    char value[200] = "";
    memcpy(value, bytes, size < sizeof(value) ? size : sizeof(value) - 1);
    size_t count = text_count(text);
    for (size_t i = 0; i < count; i += 3) {
        char *key = strdup(text_at(text, i).key);
        text_set(text, key, value);
        free(key);
    }
    for (size_t i = 0; i < sizeof(added) / sizeof(added[0]); i++)
        text_set(text, added[i], value);
    if (count > 1)
        text_remove(text, text_at(text, 1).key);
    size_t written;
    char *again = text_write(text, &written);
    struct text *reread = text_parse(again, written, "again", NULL);
    fuzz_check(reread != NULL && text_count(reread) == text_count(text));
    for (size_t i = 0; i < text_count(text); i++)
        fuzz_check(strcmp(text_at(reread, i).value, text_at(text, i).value) == 0);
    text_free(reread);
    free(again);
}

/* What is taken for an .nvram is written so that it is taken for the same. */
static void check_nvram(const char *bytes, size_t size)
{
    struct nvram nvram, again;
    size_t written;
    if (!nvram_parse(bytes, size, "nvram", &nvram, NULL))
        return;
    char *text = nvram_print(&nvram, &written);
    fuzz_check(nvram_parse(text, written, "again", &again, NULL) &&
               again.rtc_offset == nvram.rtc_offset);
    free(text);
}

/* Config to `changed` and back through this text. */
static void check_update(struct text *text, const struct machine_config *changed)
{
    struct machine_config again;
    size_t size, size_again;
    vmx_update(text, changed);
    machine_config_init(&again);
    fuzz_check(vmx_read(text, &again, NULL, NULL));
    char *wanted = vmx_write(changed, &size), *got = vmx_write(&again, &size_again);
    fuzz_check(size == size_again && memcmp(wanted, got, size) == 0);
    free(wanted);
    free(got);
    machine_config_clear(&again);
}

static void check_config(struct text *text, struct machine_config *config, const char *bytes,
                         size_t size)
{
    struct machine_config again;
    size_t written, twice;
    char *plain = vmx_write(config, &written);
    machine_config_init(&again);
    fuzz_check(vmx_parse(plain, written, "plain", &again, NULL));
    char *second = vmx_write(&again, &twice);
    fuzz_check(written == twice && memcmp(plain, second, written) == 0);
    free(plain);
    free(second);
    machine_config_clear(&again);

    vmx_update(text, config);
    check_same(text, bytes, size);

    config->cpus++;
    if (config->disk_count > 0) {
        machine_disk_clear(&config->disks[0]);
        config->disk_count--;
        memmove(&config->disks[0], &config->disks[1],
                config->disk_count * sizeof(config->disks[0]));
    }
    if (config->disk_count < MACHINE_MAX_DISKS) {
        machine_disk_init(&config->disks[config->disk_count]);
        config->disks[config->disk_count++].path = strdup("new");
    }
    check_update(text, config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    struct error *error = NULL;
    check_nvram(bytes, size);
    struct text *text = text_parse(bytes, size, "fuzz", &error);
    fuzz_check((text == NULL) == (error != NULL));
    error_free(error);
    if (text == NULL)
        return 0;
    check_same(text, bytes, size);

    struct machine_config config;
    struct vmx_notes notes = {0};
    error = NULL;
    machine_config_init(&config);
    bool read = vmx_read(text, &config, &notes, &error);
    fuzz_check(read == (error == NULL));
    free(vmx_notes_sentence(&notes, "fuzz"));
    vmx_notes_clear(&notes);
    if (read)
        machine_config_check(&config, NULL);
    if (read)
        check_config(text, &config, bytes, size);
    machine_config_clear(&config);
    error_free(error);
    text_free(text);

    text = text_parse(bytes, size, "fuzz", NULL);
    check_changes(text, bytes, size);
    text_free(text);
    return 0;
}

/* Lines of keys and values that mean something, mostly. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const words[] = {"memsize",
                                        "numvcpus",
                                        "displayName",
                                        "guestOS",
                                        ".encoding",
                                        "firmware",
                                        "trapeze.kernel",
                                        "trapeze.noReboot",
                                        "trapeze.seed",
                                        "trapeze.codeCache",
                                        "sched.mem.max",
                                        "serial0.fileType",
                                        "serial0.fileName",
                                        "scsi0.present",
                                        "annotation",
                                        "trapeze.memoryBackend",
                                        "trapeze.virtio",
                                        "x"};
    static const char *const places[] = {"scsi0:0",       "scsi0:1", "scsi0:9",     "SATA1:3",
                                         "ide0:0",        "nvme0:2", "ethernet0",   "ethernet2",
                                         "sharedFolder0", "scsi0:6", "ethernet255", "scsi256:0",
                                         "ide255:255"};
    static const char *const members[] = {
        "fileName",       "mode",          "present",      "deviceType",       "startConnected",
        "trapeze.serial", "trapeze.cache", "trapeze.iops", "connectionType",   "vnet",
        "virtualDev",     "address",       "addressType",  "generatedAddress", "hostPath",
        "guestName",      "writeAccess",   "trapeze.mtu"};
    static const char *const values[] = {"1",
                                         "64",
                                         "4294967295",
                                         "18446744073709551615",
                                         "TRUE",
                                         "FALSE",
                                         "file",
                                         "pipe",
                                         "memfd",
                                         "persistent",
                                         "independent-persistent",
                                         "trapeze-readonly",
                                         "cdrom-image",
                                         "atapi-cdrom",
                                         "nat",
                                         "bridged",
                                         "custom",
                                         "hostonly",
                                         "VMnet8",
                                         "tap:t",
                                         "vmxnet3",
                                         "e1000",
                                         "generated",
                                         "00:0c:29:00:00:01",
                                         "a|22b|7C",
                                         "",
                                         "a/b",
                                         "unlimited",
                                         "|FF",
                                         "network"};
    static const char *const ends[] = {"\n",       "\n",        "\n",   "\r\n",
                                       " # why\n", "\n\n# a\n", "\"\n", ""};
    size_t size = 0;
    for (unsigned lines = (unsigned)(fuzz_random(seed) % 12); lines > 0; lines--) {
        uint64_t random = fuzz_random(seed), more = fuzz_random(seed);
        char line[256];
        const char *value = values[more % (sizeof(values) / sizeof(values[0]))];
        const char *end = ends[(more >> 16) % (sizeof(ends) / sizeof(ends[0]))];
        int length;
        if (random % 4 == 0)
            length =
                snprintf(line, sizeof(line), "%s = \"%s\"%s",
                         words[(random >> 8) % (sizeof(words) / sizeof(words[0]))], value, end);
        else
            length = snprintf(line, sizeof(line), "%s.%s = \"%s\"%s",
                              places[(random >> 8) % (sizeof(places) / sizeof(places[0]))],
                              members[(random >> 24) % (sizeof(members) / sizeof(members[0]))],
                              value, end);
        memcpy(data + size, line, (size_t)length);
        size += (size_t)length;
    }
    return size;
}
