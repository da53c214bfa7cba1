/* SPDX-License-Identifier: MIT
 *
 * The keys of 'trapeze set': each row does what it says to a description, and nothing else.
 */
#include "support.h"

#include <stdio.h>
#include <time.h>

#include "base/bits.h"
#include "config/machine.h"
#include "config/settings.h"
#include "config/vmx.h"

static void make(struct machine_config *config)
{
    machine_config_init(config);
    config->firmware = strdup("x");
    for (config->disk_count = 0; config->disk_count < 3; config->disk_count++)
        machine_disk_init(&config->disks[config->disk_count]);
    config->nic_count = 2;
}

/* "diskN.iops" with the number of the last device. */
static void name_of(const struct setting *setting, char name[40])
{
    const char *place = setting->device != SETTING_MACHINE ? strchr(setting->name, 'N') : NULL;
    if (place == NULL)
        snprintf(name, 40, "%s", setting->name);
    else
        snprintf(name, 40, "%.*s%d%s", (int)(place - setting->name), setting->name,
                 setting->device == SETTING_DISK ? 2 : 1, place + 1);
}

static void every_key_is_found_and_kept(void **state)
{
    (void)state;
    for (size_t i = 0; i < setting_count(); i++) {
        const struct setting *setting = setting_at(i);
        struct machine_config config;
        struct error *err = NULL;
        char name[40];
        unsigned number;
        make(&config);
        name_of(setting, name);
        assert_ptr_equal(setting_find(name, &number, &err), setting);
        const char *text = setting->kind == SETTING_SWITCH ? "on"
                           : setting->kind == SETTING_WORD ? setting->words[1]
                           : setting->kind == SETTING_MOMENT ? "2031-02-03"
                                                           : "5";
        assert_true(setting_apply(&config, name, text, &err));
        if (setting->kind == SETTING_MOMENT)
            assert_string_equal(config.expires, "2031-02-03T00:00:00Z");
        else if (setting->told == NULL)
            assert_int_equal(setting_told(setting, &config, number),
                             setting->kind >= SETTING_SWITCH ? 1 : 5 * setting->unit);
        if (setting->device == SETTING_DISK) /* the last one's, not another's */
            assert_true(config.disks[0].iops == 0 && config.disks[0].bps == 0 &&
                        config.disks[2].iops + config.disks[2].bps == 5);
        if (setting->device == SETTING_NIC)
            assert_true(config.nics[0].rate == 0 && config.nics[1].rate == 5);
        assert_true(setting->help[strlen(setting->help) - 1] == '.');
        assert_true((setting->verb == NULL) == (setting->argument == NULL));
        machine_config_clear(&config);
    }
}

static void moments(void **state)
{
    static const char *const bad[] = {"",   "soon", "Never", "0h", "-1d", "1y", "2026-13-01", "1970-01-01",
                                      "12", "12hh", "100000w"};
    struct machine_config config;
    struct error *err = NULL;
    int64_t moment, now = (int64_t)time(NULL);
    (void)state;
    make(&config);
    assert_true(setting_apply(&config, "expires", "2d", &err));
    assert_true(machine_parse_time(config.expires, &moment));
    assert_true(moment >= now + 2 * 86400 && moment <= (int64_t)time(NULL) + 2 * 86400);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_false(setting_apply(&config, "expires", bad[i], &err));
        error_free(err);
        err = NULL;
    }
    assert_true(setting_apply(&config, "expires", "never", &err));
    assert_null(config.expires);
    machine_config_clear(&config);
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"64", 64 * MIB}, {"64M", 64 * MIB},  {"64MiB", 64 * MIB},
                {"1g", GIB},      {"2T", 2048 * GIB}, {"512k", 512 * KIB},
                {"0", 0}};
    static const char *const bad[] = {
        "",          "M",   "-1",     "64X", "64MM", "64 M", "99999999999999999999",
        "20000000T", " 64", "64MiBs", "0x40"};
    struct machine_config config;
    struct error *err = NULL;
    (void)state;
    make(&config);
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_true(setting_apply(&config, "memory", good[i].text, &err));
        assert_int_equal(config.memory, good[i].bytes);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_false(setting_apply(&config, "memory", bad[i], &err));
        assert_error(&err, ERROR_USAGE, "memory");
    }
    machine_config_clear(&config);
}

static void what_a_balloon_is_told(void **state)
{
    struct machine_config config;
    struct error *err = NULL;
    unsigned number;
    (void)state;
    make(&config);
    const struct setting *memory = setting_find("memory", &number, &err);
    const struct setting *limit = setting_find("memory-limit", &number, &err);
    assert_int_equal(setting_told(memory, &config, 0), 512 * MIB);
    assert_true(setting_apply(&config, "memory-limit", "256M", &err) && config.balloon);
    assert_int_equal(setting_told(memory, &config, 0), 256 * MIB);
    assert_true(setting_apply(&config, "memory", "128M", &err));
    assert_int_equal(setting_told(limit, &config, 0), 128 * MIB);
    assert_true(setting_apply(&config, "memory-limit", "0", &err) && config.balloon);
    assert_int_equal(setting_told(limit, &config, 0), 128 * MIB);
    machine_config_clear(&config);
}

static void what_is_no_key(void **state)
{
    static const struct {
        const char *key, *part;
    } cases[] = {{"cpu-wieght", "Did you mean cpu-weight"},
                 {"disk0.iop", "diskN.iops"},
                 {"", "no key"},
                 {"disk", "no key"},
                 {"disk.iops", "no key"},
                 {"diskN.iops", "no key"},
                 {"disk00000.iops", "no key"},
                 {"cpus1", "no key"},
                 {"0", "no key"},
                 {"99999999999", "no key"}};
    static const char *const absent[] = {"disk3.iops", "disk9999.bps", "net2.rate"};
    struct machine_config config;
    struct error *err = NULL;
    unsigned number;
    char longest[5000];
    (void)state;
    make(&config);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_null(setting_find(cases[i].key, &number, &err));
        assert_error(&err, ERROR_USAGE, cases[i].part);
    }
    memset(longest, '1', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_null(setting_find(longest, &number, &err));
    assert_error(&err, ERROR_USAGE, "no key");
    for (size_t i = 0; i < ARRAY_SIZE(absent); i++) {
        assert_false(setting_apply(&config, absent[i], "1", &err));
        assert_error(&err, ERROR_USAGE, "counted from 0");
    }
    machine_config_clear(&config);
}

/* Every string of a description is the copy's own. */
static void a_copy_shares_nothing(void **state)
{
    static const char text[] =
        "displayName = \"a\"\ntrapeze.owner = \"b\"\nguestOS = \"c\"\ntrapeze.kernel = \"d\"\n"
        "trapeze.initrd = \"e\"\ntrapeze.append = \"f\"\ntrapeze.trace = \"g\"\ntrapeze.perf = \"h\"\n"
        "trapeze.hostCpuFeatures = \"i\"\ntrapeze.vsockSocket = \"j\"\ntrapeze.dumpDeviceTree = \"k\"\n"
        "serial0.fileType = \"file\"\nserial0.fileName = \"l\"\ntrapeze.firmware = \"m\"\n"
        "scsi0:0.fileName = \"n\"\nethernet0.connectionType = \"nat\"\nethernet0.address = "
        "\"02:00:00:00:00:01\"\nsharedFolder0.hostPath = \"o\"\nsharedFolder0.guestName = \"p\"\n";
    struct machine_config config, copy;
    struct error *err = NULL;
    size_t size, copy_size;
    (void)state;
    machine_config_init(&config);
    assert_true(vmx_parse(text, sizeof(text) - 1, "text", &config, &err));
    machine_config_copy(&copy, &config);
    char *before = vmx_write(&config, &size);
    machine_config_clear(&config); /* what it shared would be gone, or freed twice below */
    char *after = vmx_write(&copy, &copy_size);
    assert_int_equal(size, copy_size);
    assert_memory_equal(before, after, size);
    free(before);
    free(after);
    machine_config_clear(&copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_found_and_kept),
        cmocka_unit_test(moments),
        cmocka_unit_test(sizes),
        cmocka_unit_test(what_a_balloon_is_told),
        cmocka_unit_test(what_is_no_key),
        cmocka_unit_test(a_copy_shares_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
