/* SPDX-License-Identifier: MIT
 *
 * The .vmx format: what is written is read back equal; what is wrong is named with its line.
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "config/suggest.h"
#include "config/vmx.h"

static void full_config(struct machine_config *config)
{
    machine_config_init(config);
    config->name = strdup("a \"quoted\" | name\twith tab");
    config->memory = UINT64_C(768) << 20;
    config->cpus = 3;
    config->code_cache = 320 << 10;
    config->host_features = strdup("none,+fma");
    config->kernel = strdup("/k");
    config->append = strdup("console=ttyS0 x=\"1 2\"");
    config->no_reboot = true;
    config->deterministic = true;
    config->seed = UINT64_MAX;
    config->ram_backend = MACHINE_RAM_MEMFD;
    config->disks[0] = (struct machine_disk){.path = strdup("/a,b"), .read_only = true};
    config->disks[1] = (struct machine_disk){.path = strdup("/c"), .serial = strdup("S 1")};
    config->disk_count = 2;
    config->nics[0] = (struct machine_nic){.net = MACHINE_NET_CUSTOM,
                                           .vnet = strdup("internal:a"),
                                           .mac = strdup("02:00:00:00:00:01"),
                                           .vlan = 7,
                                           .rate = 10000};
    config->nics[1] = (struct machine_nic){.mtu = 9000, .forward = strdup("tcp:1:2 udp:3:4")};
    config->nic_count = 2;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct machine_config config, again;
    struct error *err = NULL;
    size_t size, size_again;
    full_config(&config);
    char *text = vmx_write(&config, &size);
    machine_config_init(&again);
    assert_true(vmx_parse(text, size, "t", &again, &err));
    char *text_again = vmx_write(&again, &size_again);
    assert_string_equal(text, text_again);
    assert_string_equal(again.name, config.name);
    assert_string_equal(again.append, config.append);
    assert_int_equal(again.code_cache, 320 << 10);
    assert_string_equal(again.host_features, "none,+fma");
    assert_int_equal(again.seed, UINT64_MAX);
    assert_int_equal(again.nic_count, 2);
    assert_int_equal(again.nics[0].net, MACHINE_NET_CUSTOM);
    assert_string_equal(again.nics[0].vnet, "internal:a");
    assert_string_equal(again.nics[0].mac, "02:00:00:00:00:01");
    assert_int_equal(again.nics[0].vlan, 7);
    assert_int_equal(again.nics[0].rate, 10000);
    assert_int_equal(again.nics[1].net, MACHINE_NET_NAT);
    assert_int_equal(again.nics[1].mtu, 9000);
    assert_string_equal(again.nics[1].forward, "tcp:1:2 udp:3:4");
    assert_int_equal(again.disk_count, 2);
    assert_true(again.disks[0].read_only);
    assert_false(again.disks[1].read_only);
    assert_string_equal(again.disks[1].serial, "S 1");
    free(text);
    free(text_again);
    machine_config_clear(&config);
    machine_config_clear(&again);
}

static void test_reads_what_people_write(void **state)
{
    (void)state;
    static const char text[] = "# a machine\r\n\n  MEMSIZE=\"64\"\r\nnumvcpus   =  \"2\"\n"
                               "trapeze.vsockCid = \"7\"\ntrapeze.vsockSocket = \"v\"\n"
                               "scsi0:0.filename = \"d|2F|22\"\n";
    struct machine_config config;
    machine_config_init(&config);
    assert_true(vmx_parse(text, sizeof(text) - 1, "t", &config, NULL));
    assert_int_equal(config.memory, 64 << 20);
    assert_int_equal(config.cpus, 2);
    assert_string_equal(config.disks[0].path, "d/\"");
    assert_int_equal(config.vsock_cid, 7);
    assert_string_equal(config.vsock_socket, "v");
    config.kernel = strdup("k");
    struct error *err = NULL;
    assert_true(machine_config_check(&config, &err));
    config.vsock_cid = 2; /* the host's */
    assert_false(machine_config_check(&config, &err));
    assert_non_null(strstr(error_message(err), "CID"));
    error_free(err);
    machine_config_clear(&config);
}

static void test_errors_name_line_and_cause(void **state)
{
    (void)state;
    static const struct {
        const char *text, *wanted, *also;
    } cases[] = {
        {"\nmemzise = \"1\"", "t:2: unknown key 'memzise'", "memsize"},
        {"memsize = 12", "t:1:", "double quotes"},
        {"memsize = \"a\"", "t:1: not a number of MiB: 'a'", NULL},
        {"memsize = \"99999999999999999999\"", "t:1:", NULL},
        {"numvcpus = \"-1\"", "t:1: not a number", NULL},
        {"memsize", "t:1: expected key = \"value\"", NULL},
        {"trapeze.noReboot = \"maybe\"", "t:1: 'maybe' is neither", NULL},
        {"displayName = \"a\"b\"", "t:1:", "|22"},
        {"displayName = \"a|2\"", "t:1: '|' is not followed", NULL},
        {"displayName = \"a|00\"", "t:1: '|' is not followed", NULL},
        {"scsi0:1.fileName = \"x\"", "t:1: scsi0:1: disks are numbered", NULL},
        {"scsi0:99999999999999999999.fileName = \"x\"", "t:1: scsi0:", NULL},
        {"ethernet1.vnet = \"x\"", "t:1: ethernet1: NICs are numbered", NULL},
        {"ethernet0.connectionType = \"wifi\"", "t:1: neither nat", NULL},
        {"scsi0:0.mode = \"persistent\"", "t: disk scsi0:0 has no fileName", NULL},
        {"scsi0:0.colour = \"red\"", "t:1: unknown key", NULL},
        {"scsi0:.fileName = \"x\"", "t:1: unknown key", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct machine_config config;
        struct error *err = NULL;
        machine_config_init(&config);
        assert_false(vmx_parse(cases[i].text, strlen(cases[i].text), "t", &config, &err));
        assert_non_null(err);
        assert_ptr_equal(strstr(error_message(err), cases[i].wanted), error_message(err));
        if (cases[i].also != NULL)
            assert_non_null(strstr(error_message(err), cases[i].also));
        error_free(err);
        machine_config_clear(&config);
    }
}

static void test_hostile_text(void **state)
{
    (void)state;
    struct machine_config config;
    machine_config_init(&config);
    assert_false(vmx_parse("a\0b", 3, "t", &config, NULL));
    assert_false(vmx_parse("", VMX_MAX_SIZE + 1, "t", &config, NULL));
    assert_true(vmx_parse("", 0, "t", &config, NULL));
    machine_config_clear(&config);
}

static void test_check(void **state)
{
    (void)state;
    struct machine_config config;
    machine_config_init(&config);
    assert_false(machine_config_check(&config, NULL)); /* nothing to run */
    config.kernel = strdup("k");
    assert_true(machine_config_check(&config, NULL));
    config.cpus = 9;
    assert_false(machine_config_check(&config, NULL));
    config.cpus = 0;
    assert_false(machine_config_check(&config, NULL));
    config.cpus = 8;
    config.memory = MACHINE_MIN_MEMORY;
    assert_true(machine_config_check(&config, NULL));
    config.memory--;
    assert_false(machine_config_check(&config, NULL));
    machine_config_clear(&config);
}

static const char *nearest(const char *word, const char *const *candidates)
{
    struct suggest suggest;
    suggest_start(&suggest, word);
    for (; *candidates != NULL; candidates++)
        suggest_offer(&suggest, *candidates);
    return suggest.best;
}

static void test_suggest(void **state)
{
    (void)state;
    static const char *const words[] = {"memory", "kernel", "cpus", "console", NULL};
    assert_string_equal(nearest("memroy", words), "memory");
    assert_string_equal(nearest("mem", words), "memory");
    assert_string_equal(nearest("kernal", words), "kernel");
    assert_string_equal(nearest("cpu", words), "cpus");
    assert_null(nearest("xyzzy", words));
    assert_null(nearest("", words));
    char longest[200] = {0};
    memset(longest, 'a', sizeof(longest) - 1);
    assert_null(nearest(longest, words));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_reads_what_people_write),
        cmocka_unit_test(test_errors_name_line_and_cause),
        cmocka_unit_test(test_hostile_text),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_suggest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
