/* SPDX-License-Identifier: MIT
 *
 * firecracker/api.h without a machine: what each request is answered, and what the resources
 * become. The statuses and bodies are those of Firecracker's published API description.
 */
#include "firecracker_world.h"

static void the_instance(void **state)
{
    struct world *w = *state;
    assert_string_equal(told(w, "GET /", "state"), "Not started");
    assert_string_equal(told(w, "GET /", "id"), "vm1");
    assert_true(told(w, "GET /", "app_name")[0] != '\0');
    assert_true(told(w, "GET /", "vmm_version")[0] != '\0');
    assert_string_equal(told(w, "GET /version", "firecracker_version"), FC_API_VERSION);
    refuses(w, "GET /", "{}", "GET request cannot have a body.");
    refuses(w, "GET /nothing", NULL, "Invalid request method and/or path: GET /nothing.");
    refuses(w, "DELETE /", NULL, "Invalid request method and/or path: DELETE /.");
    refuses(w, START, "without kernel configuration");
    accepts(w, BOOT);
    accepts(w, START);
    assert_string_equal(told(w, "GET /", "state"), "Running");
    refuses(w, START, TOO_LATE);
    assert_int_equal(w->starts, 1);
}

static void bodies_are_checked(void **state)
{
    struct world *w = *state;
    static const char *const bad[][2] = {
        {"", "Empty PUT request."},
        {"{", "deserializing the json body"},
        {"[]", "expected an object"},
        {"{'vcpu_count': 1}", "missing field `mem_size_mib`"},
        {"{'vcpu_count': 1, 'vcpu_count': 2, 'mem_size_mib': 64}", "duplicate"},
        {"{'vcpu_count': 1, 'mem_size_mib': 64, 'extra': 1}", "unknown field `extra`"},
        {"{'vcpu_count': '1', 'mem_size_mib': 64}", "invalid type of `vcpu_count`"},
        {"{'vcpu_count': -1, 'mem_size_mib': 64}", "invalid type of `vcpu_count`"},
        {"{'vcpu_count': 33, 'mem_size_mib': 64}", "invalid value of `vcpu_count`: 33"},
        {"{'vcpu_count': 9, 'mem_size_mib': 64}", "at most 8"},
        {"{'vcpu_count': 1, 'mem_size_mib': 16}", "32 to"},
        {"{'vcpu_count': 3, 'mem_size_mib': 64, 'smt': true}", "1 or an even number if SMT is enabled"},
        {"{'vcpu_count': 1, 'mem_size_mib': 64, 'huge_pages': '2M'}", "hugetlbfs"},
        {"{'vcpu_count': 1, 'mem_size_mib': 65, 'huge_pages': 'Transparent'}", "page size"},
        {"{'vcpu_count': 1, 'mem_size_mib': 64, 'huge_pages': '1G'}", "unknown variant `1G`"},
        {"{'vcpu_count': 1, 'mem_size_mib': 64, 'smt': 1}", "invalid type of `smt`"},
        {"{'vcpu_count': 1, 'mem_size_mib': 64, 'cpu_template': 'T2'}", "CPU template 'T2'"},
        {"{'vcpu_count': 1, 'mem_size_mib': 64, 'cpu_template': 'T3'}", "unknown variant `T3`"},
        {"{'vcpu_count': 1, 'mem_size_mib': 64, 'cpu_template': 'None\\u0000'}", ""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        refuses(w, "PUT /machine-config", bad[i][0], bad[i][1]);
    assert_int_equal(request(w, "GET /machine-config", NULL), 200);
    assert_int_equal(json_integer_value(json_object_get(w->answer.body, "mem_size_mib")), 128);
    refuses(w, "PATCH /machine-config", NULL, "Empty PATCH request.");
}

static void a_machine_is_configured(void **state)
{
    struct world *w = *state;
    accepts(w, "PUT /machine-config", "{'vcpu_count': 2, 'mem_size_mib': 256, 'huge_pages': null}");
    accepts(w, "PATCH /machine-config", "{'mem_size_mib': 512}");
    refuses(w, "PATCH /machine-config", "{'mem_size_mib': 1}", "32 to");
    refuses(w, "PUT /boot-source", "{'kernel_image_path': '/not/there'}", "The kernel file cannot");
    refuses(w, "PUT /boot-source",
            "{'kernel_image_path': '/dev/null', 'initrd_path': '/not/there'}", "The initrd file");
    accepts(w, "PUT /boot-source",
            "{'kernel_image_path': '/dev/null', 'initrd_path': '/dev/zero', 'boot_args': 'quiet'}");
    accepts(w, "PUT /drives/data",
            "{'drive_id': 'data', 'is_root_device': false, 'path_on_host': '/dev/null'}");
    accepts(w, "PUT /drives/root",
            "{'drive_id': 'root', 'is_root_device': true, 'path_on_host': '/dev/zero', "
            "'is_read_only': true, 'cache_type': 'Writeback', 'rate_limiter': {'bandwidth': "
            "{'size': 1000, 'refill_time': 100}, 'ops': {'size': 5, 'refill_time': 1000}}}");
    refuses(w, "PUT /drives/other",
            "{'drive_id': 'other', 'is_root_device': true, 'path_on_host': '/dev/null'}",
            "A root block device already exists!");
    accepts(w, "PUT /network-interfaces/eth0",
            "{'iface_id': 'eth0', 'host_dev_name': 'tap7', 'guest_mac': '02:00:00:00:00:07', "
            "'tx_rate_limiter': {'bandwidth': {'size': 125000, 'refill_time': 1000}}, "
            "'rx_rate_limiter': {'bandwidth': {'size': 250000, 'refill_time': 2000}, "
            "'ops': {'size': 3, 'refill_time': 1000}}}");
    accepts(w, "PUT /vsock", "{'guest_cid': 42, 'uds_path': '/tmp/v.sock'}");
    accepts(w, "PUT /vsock", "{'guest_cid': 42, 'uds_path': '/tmp/v.sock', 'vsock_id': 'v'}");
    assert_true(w->answer.deprecated);
    accepts(w, "PUT /balloon", "{'amount_mib': 64, 'deflate_on_oom': false}");
    accepts(w, "PUT /entropy", "{}");
    accepts(w, "PUT /serial", "{'serial_out_path': '/tmp/serial'}");
    accepts(w, START);
    const struct machine_config *config = &w->config;
    assert_int_equal(config->cpus, 2);
    assert_true(config->memory == UINT64_C(512) << 20);
    assert_int_equal(config->virtio, MACHINE_VIRTIO_MMIO);
    assert_true(config->no_reboot);
    assert_string_equal(config->kernel, "/dev/null");
    assert_string_equal(config->initrd, "/dev/zero");
    assert_string_equal(config->append, "quiet root=/dev/vda ro");
    assert_int_equal(config->disk_count, 2);
    assert_string_equal(config->disks[0].path, "/dev/zero"); /* the root device comes first */
    assert_string_equal(config->disks[0].format, "raw");
    assert_true(config->disks[0].read_only);
    assert_int_equal(config->disks[0].cache, MACHINE_CACHE_WRITEBACK);
    assert_true(config->disks[0].bps == 10000 && config->disks[0].iops == 5);
    assert_int_equal(config->disks[1].cache, MACHINE_CACHE_UNSAFE);
    assert_string_equal(config->nics[0].vnet, "tap:tap7");
    assert_string_equal(config->nics[0].mac, "02:00:00:00:00:07");
    assert_string_equal(w->asked, "rate {\"nic\":0,\"send-bytes\":125000,\"send-frames\":0,"
                                  "\"receive-bytes\":125000,\"receive-frames\":3}");
    assert_int_equal(config->vsock_cid, 42);
    assert_string_equal(config->vsock_socket, "/tmp/v.sock");
    assert_true(config->balloon && config->balloon_keeps && config->balloon_size == UINT64_C(448) << 20);
    assert_string_equal(config->serial_path, "/tmp/serial");
    assert_int_equal(request(w, "GET /vm/config", NULL), 200);
    assert_int_equal(json_array_size(json_object_get(w->answer.body, "drives")), 2);
}

#define X86_ARGS                                                                                   \
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd "             \
    "swiotlb=noforce pci=off"

/* The machine's processor is the kernel's; what is said to the kernel depends on it. */
static void kernels_choose_the_processor(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *bytes, *arch, *body, *append;
        size_t at, size;
    } kernels[] = {
        {"RSC\x05", "riscv64", "", "reboot=k panic=1", 56, 0x1000},
        {"HdrS", "x86_64", "", X86_ARGS, 0x202, 0x1000},
        {"HdrS", "riscv64", "", "reboot=k panic=1", 0x202, 0x206}, /* cut off */
        {"\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\x3e", "x86_64", "", X86_ARGS, 0, 0x100},
        {"\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\xf3", "riscv64", "", "reboot=k panic=1", 0, 0x100},
        {"HdrS", "x86_64", ", 'boot_args': 'quiet -- single'", "quiet pci=off -- single", 0x202,
         0x1000},
        {"RSC\x05", "riscv64", ", 'boot_args': 'quiet -- single'", "quiet -- single", 56, 0x1000},
    };
    accepts(w, "PUT /machine-config", "{'vcpu_count': 2, 'mem_size_mib': 64}");
    for (size_t i = 0; i < ARRAY_SIZE(kernels); i++) {
        bool x86 = strcmp(kernels[i].arch, "x86_64") == 0;
        char path[] = "/tmp/trapeze-test-XXXXXX", body[256];
        uint8_t file[0x1000] = {0};
        int fd = mkstemp(path);
        memcpy(file + kernels[i].at, kernels[i].bytes, kernels[i].bytes[0] == '\177' ? 19 : 4);
        assert_int_equal(write(fd, file, kernels[i].size), (ssize_t)kernels[i].size);
        snprintf(body, sizeof(body), "{'kernel_image_path': '%s'%s}", path, kernels[i].body);
        accepts(w, "PUT /boot-source", body);
        accepts(w, START);
        assert_string_equal(w->config.arch, kernels[i].arch);
        assert_string_equal(w->config.append, kernels[i].append);
        assert_int_equal(w->config.keyboard, x86); /* for SendCtrlAltDel */
        assert_null(w->config.cpu);
        w->fc.state = FC_NOT_STARTED;
        accepts(w, "PATCH /machine-config", "{'smt': true}");
        if (x86) {
            accepts(w, START);
            assert_string_equal(w->config.cpu, "host,smt=on");
            w->fc.state = FC_NOT_STARTED;
        } else {
            refuses(w, START, "multithreading is not supported on riscv64");
        }
        accepts(w, "PATCH /machine-config", "{'smt': false}");
        close(fd);
        unlink(path);
    }
    accepts(w, BOOT);
    accepts(w, "PUT /drives/root",
            "{'drive_id': 'root', 'is_root_device': true, 'path_on_host': '/dev/null', 'partuuid': "
            "'0-1'}");
    accepts(w, "PUT /boot-source",
            "{'kernel_image_path': '/dev/null', 'boot_args': 'quiet -- single'}");
    accepts(w, START);
    assert_string_equal(w->config.append, "quiet root=PARTUUID=0-1 rw -- single");
}

static void drives_and_interfaces_have_ids(void **state)
{
    struct world *w = *state;
    static const char drive[] =
        "{'drive_id': 'a', 'is_root_device': false, 'path_on_host': '/dev/null'}";
    refuses(w, "PUT /drives/", drive, "The ID cannot be empty.");
    refuses(w, "PUT /drives/b", drive, "does not match");
    refuses(w, "PUT /drives/a/b", drive, "Invalid request method and/or path");
    refuses(w, "PUT /drives/a-b",
            "{'drive_id': 'a-b', 'is_root_device': false, 'path_on_host': '/dev/null'}",
            "alphanumeric");
    refuses(w, "PUT /drives/a",
            "{'drive_id': 'a', 'is_root_device': false, 'path_on_host': '/not/there'}",
            "backing file cannot be opened");
    refuses(w, "PUT /drives/a",
            "{'drive_id': 'a', 'is_root_device': false, 'path_on_host': '/x', 'socket': '/s'}",
            "does not support `socket`");
    for (unsigned i = 0; i < 2 * MACHINE_MAX_DISKS; i++) {
        char line[64], body[128];
        snprintf(line, sizeof(line), "PUT /drives/d%u", i % MACHINE_MAX_DISKS);
        snprintf(body, sizeof(body),
                 "{'drive_id': 'd%u', 'is_root_device': false, 'path_on_host': '/dev/null'}",
                 i % MACHINE_MAX_DISKS);
        accepts(w, line, body); /* the second time what there is is replaced */
    }
    refuses(w, "PUT /drives/a", drive, "has room for 16");
    static const char nic[] = "{'iface_id': 'n', 'host_dev_name': '%s', 'guest_mac': '%s'}";
    static const char *const bad[][3] = {{"tap0", "02:00", "Invalid MAC address"},
                                         {"", "02:00:00:00:00:01", "not the name"},
                                         {"a/b", "02:00:00:00:00:01", "not the name"},
                                         {"0123456789abcdef", "02:00:00:00:00:01", "not the name"}};
    char body[256];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(body, sizeof(body), nic, bad[i][0], bad[i][1]);
        refuses(w, "PUT /network-interfaces/n", body, bad[i][2]);
    }
    snprintf(body, sizeof(body), nic, "tap0", "02:00:00:00:00:01");
    accepts(w, "PUT /network-interfaces/n", body);
    accepts(w, "PUT /network-interfaces/n", body);
    refuses(w, "PUT /network-interfaces/m",
            "{'iface_id': 'm', 'host_dev_name': 'tap1', 'guest_mac': '02:00:00:00:00:01'}",
            "already in use");
}

static void a_running_machine_is_asked(void **state)
{
    struct world *w = *state;
    refuses(w, "PATCH /vm", "{'state': 'Paused'}", TOO_SOON);
    refuses(w, "PUT /actions", "{'action_type': 'SendCtrlAltDel'}", TOO_SOON);
    accepts(w, BOOT);
    accepts(w, "PUT /drives/a",
            "{'drive_id': 'a', 'is_root_device': false, 'path_on_host': '/dev/null'}");
    accepts(w, "PUT /network-interfaces/n", "{'iface_id': 'n', 'host_dev_name': 'tap0'}");
    accepts(w, "PUT /balloon",
            "{'amount_mib': 16, 'deflate_on_oom': true, 'stats_polling_interval_s': 1}");
    w->refusal = "no memory is left";
    refuses(w, START, "no memory is left");
    w->refusal = NULL;
    accepts(w, START); /* once more */
    refuses(w, BOOT, TOO_LATE);
    refuses(w, "PUT /machine-config", "{'vcpu_count': 1, 'mem_size_mib': 64}", TOO_LATE);
    accepts(w, "PATCH /vm", "{'state': 'Paused'}");
    assert_string_equal(w->asked, "pause {}");
    assert_string_equal(told(w, "GET /", "state"), "Paused");
    w->asked[0] = '\0';
    accepts(w, "PATCH /vm", "{'state': 'Paused'}"); /* it is */
    assert_string_equal(w->asked, "");
    accepts(w, "PATCH /vm", "{'state': 'Resumed'}");
    assert_string_equal(w->asked, "resume {}");
    w->refusal = "it is gone";
    refuses(w, "PATCH /vm", "{'state': 'Paused'}", "it is gone");
    w->refusal = NULL;
    assert_string_equal(told(w, "GET /", "state"), "Running");
    accepts(w, "PUT /actions", "{'action_type': 'SendCtrlAltDel'}");
    assert_string_equal(w->asked, "ctrl-alt-del {}");
    accepts(w, "PATCH /drives/a",
            "{'drive_id': 'a', 'rate_limiter': {'ops': {'size': 10, 'refill_time': 100}}}");
    assert_string_equal(w->asked, "limit {\"disk\":0,\"bps\":0,\"iops\":100}");
    refuses(w, "PATCH /drives/b", "{'drive_id': 'b'}", "does not exist");
    accepts(w, "PATCH /network-interfaces/n",
            "{'iface_id': 'n', 'tx_rate_limiter': {'bandwidth': {'size': 125, 'refill_time': 1}}}");
    accepts(w, "PATCH /network-interfaces/n", /* the other direction, and the other bucket, stay */
            "{'iface_id': 'n', 'rx_rate_limiter': {'ops': {'size': 7, 'refill_time': 1000}}}");
    assert_string_equal(w->asked, "rate {\"nic\":0,\"send-bytes\":125000,\"send-frames\":0,"
                                  "\"receive-bytes\":0,\"receive-frames\":7}");
    accepts(w, "PATCH /network-interfaces/n",
            "{'iface_id': 'n', 'tx_rate_limiter': {'bandwidth': {'size': 0, 'refill_time': 0}}}");
    assert_string_equal(w->asked, "rate {\"nic\":0,\"send-bytes\":0,\"send-frames\":0,"
                                  "\"receive-bytes\":0,\"receive-frames\":7}");
    refuses(w, "PATCH /balloon", "{'amount_mib': 128}", "as large as the memory");
    accepts(w, "PATCH /balloon", "{'amount_mib': 28}");
    assert_string_equal(w->asked, "balloon {\"size\":104857600}");
    assert_int_equal(request(w, "GET /balloon/statistics", NULL), 200);
    assert_int_equal(json_integer_value(json_object_get(w->answer.body, "target_mib")), 28);
    assert_int_equal(json_integer_value(json_object_get(w->answer.body, "actual_pages")), 48 << 8);
    assert_int_equal(json_integer_value(json_object_get(w->answer.body, "free_memory")), 12345);
    assert_int_equal(json_integer_value(json_object_get(w->answer.body, "disk_caches")), 99);
}

static const char *limiter_of(struct world *w, const char *bucket)
{
    static char text[128];
    assert_int_equal(request(w, "GET /vm/config", NULL), 200);
    const json_t *drive = json_array_get(json_object_get(w->answer.body, "drives"), 0);
    char *own = json_dumps(json_object_get(json_object_get(drive, "rate_limiter"), bucket),
                           JSON_COMPACT | JSON_SORT_KEYS);
    snprintf(text, sizeof(text), "%s %s", json_string_value(json_object_get(drive, "path_on_host")),
             own);
    free(own);
    return text;
}

/* The file changes first; what fails changes nothing of what is told. */
static void drives_get_other_files(void **state)
{
    struct world *w = *state;
    accepts(w, BOOT);
    accepts(w, "PUT /drives/a",
            "{'drive_id': 'a', 'is_root_device': false, 'path_on_host': '/dev/null', "
            "'is_read_only': true, 'rate_limiter': {'ops': {'size': 10, 'refill_time': 100}}}");
    refuses(w, "PATCH /drives/a", "{'drive_id': 'a', 'path_on_host': '/b'}", TOO_SOON);
    accepts(w, START);
    accepts(w, "PATCH /drives/a", "{'drive_id': 'a', 'path_on_host': '/b'}");
    assert_string_equal(w->asked, "replace 0 /b read-only");
    assert_string_equal(limiter_of(w, "ops"), "/b {\"refill_time\":100,\"size\":10}");
    w->refusal = "it is not there";
    refuses(w, "PATCH /drives/a",
            "{'drive_id': 'a', 'path_on_host': '/c', 'rate_limiter': {'ops': {'size': 1, "
            "'refill_time': 1}}}",
            "Unable to patch the block device: it is not there. Please verify");
    assert_string_equal(w->asked, "replace 0 /c read-only");
    assert_string_equal(limiter_of(w, "ops"), "/b {\"refill_time\":100,\"size\":10}");
    w->refusal = NULL;
    refuses(w, "PATCH /drives/a", "{'drive_id': 'a', 'path_on_host': 1}", "invalid type");
    accepts(w, "PATCH /drives/a",
            "{'drive_id': 'a', 'path_on_host': '/d', 'rate_limiter': {'bandwidth': {'size': 5, "
            "'refill_time': 1000}}}");
    assert_string_equal(w->asked, "limit {\"disk\":0,\"bps\":5,\"iops\":100}"); /* and both */
    assert_string_equal(limiter_of(w, "bandwidth"), "/d {\"refill_time\":1000,\"size\":5}");
}

/* Of what a description says nothing: right after the start. */
static void entropy_and_serial_are_limited(void **state)
{
    struct world *w = *state;
    accepts(w, BOOT);
    accepts(w, "PUT /metrics", "{'metrics_path': '/m'}");
    refuses(w, "PUT /entropy", "{'rate_limiter': {'size': 1}}", "unknown field");
    refuses(w, "PUT /serial", "{'rate_limiter': {'bandwidth': {}}}", "unknown field");
    accepts(w, "PUT /entropy", "{'rate_limiter': null}");
    accepts(w, "PUT /entropy",
            "{'rate_limiter': {'bandwidth': {'size': 10, 'refill_time': 100}, 'ops': {'size': 5, "
            "'refill_time': 1000}}}");
    accepts(w, START);
    assert_string_equal(w->asked, "entropy {\"bytes\":100,\"requests\":5}");
    accepts(w, "PUT /actions", "{'action_type': 'FlushMetrics'}");
    assert_null(strstr(w->metrics, "uart"));
    w->fc.state = FC_NOT_STARTED;
    accepts(w, "PUT /serial", "{'rate_limiter': {'size': 7, 'refill_time': 1000}}");
    w->refusal = "not today";
    refuses(w, START, "not today");
    w->refusal = NULL;
    accepts(w, START);
    assert_string_equal(w->asked, "serial {\"bytes\":7}");
    accepts(w, "PUT /actions", "{'action_type': 'FlushMetrics'}");
    assert_non_null(strstr(w->metrics, "\"uart\":{\"rate_limiter_dropped_bytes\":55}"));
}

static void logs_and_metrics(void **state)
{
    struct world *w = *state;
    refuses(w, "PUT /actions", "{'action_type': 'FlushMetrics'}", "no file");
    refuses(w, "PUT /metrics", "{'metrics_path': '/bad'}", "cannot open");
    refuses(w, "PUT /metrics", "{'metrics_path': '/m', 'properties': {'az': 1}}",
            "invalid type of `properties`, expected an object of strings");
    refuses(w, "PUT /metrics", "{'metrics_path': '/m', 'properties': ['az']}", "expected an object");
    accepts(w, "PUT /metrics", "{'metrics_path': '/m', 'emit_id': true, 'properties': {'az': 'b'}}");
    refuses(w, "PUT /metrics", "{'metrics_path': '/m'}", "Reinitialization");
    accepts(w, "PUT /actions", "{'action_type': 'FlushMetrics'}");
    json_t *line = json_loads(w->metrics, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(line, "id")), "vm1");
    json_t *server = json_object_get(line, "api_server");
    assert_int_equal(json_integer_value(json_object_get(server, "requests")), 7);
    assert_int_equal(json_integer_value(json_object_get(server, "failures")), 5);
    const json_t *properties = json_object_get(line, "properties");
    assert_string_equal(json_string_value(json_object_get(properties, "az")), "b");
    json_decref(line);
    refuses(w, "PUT /logger", "{'log_path': '/bad'}", "cannot open");
    refuses(w, "PUT /logger", "{'level': 'loud'}", "loud");
    accepts(w, "PUT /logger", "{'log_path': '/l', 'level': 'Info', 'show_level': true}");
}

/* A sentence, not silence. */
static void what_there_is_not(void **state)
{
    struct world *w = *state;
    static const char *const lines[] = {"PATCH /balloon/hinting/stop", "PUT /pmem/a",
                                        "PATCH /pmem/a",       "GET /hotplug/memory",
                                        "PUT /hotplug/memory", "PATCH /balloon/hinting/start"};
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
        refuses(w, lines[i], lines[i][0] == 'G' ? NULL : "{}", "trapeze does not support");
    refuses(w, "PUT /balloon", "{'amount_mib': 1, 'deflate_on_oom': true, 'free_page_hinting': true}",
            "free_page_hinting");
}

#define LEAF(bits)                                                                                 \
    "{'cpuid_modifiers': [{'leaf': '0x7', 'subleaf': '0b0', 'flags': 1, 'modifiers': "              \
    "[{'register': 'ebx', 'bitmap': '" bits "'}]}]}"

/* Of x86-64 guests; the documentation's own example is one of them. */
static void cpu_templates(void **state)
{
    struct world *w = *state;
    static const char *const bad[][2] = {
        {LEAF("0b2"), "Failed to parse string [0b2] as a bitmap - unknown character"},
        {LEAF("0bxxxxxxxxxxxxxxxx_xxxxxxxxxxxxxxxx0"), "string is too long"},
        {"{'reg_modifiers': []}", "unknown field `reg_modifiers`"},
        {"{'msr_modifiers': [{'addr': '266', 'bitmap': '0b1'}]}", "[266] as a number"},
        {"{'msr_modifiers': [{'addr': '0x1ffffffff', 'bitmap': '0b1'}]}", "as a number"},
        {"{'msr_modifiers': [{'addr': '0b12', 'bitmap': '0b1'}]}", "as a number"},
        {"{'msr_modifiers': [{'addr': '0x-1', 'bitmap': '0b1'}]}", "as a number"},
        {"{'kvm_capabilities': ['a']}", "[a] as a kvm capability"},
        {"{'kvm_capabilities': ['!']}", "as a kvm capability"},
        {"{'cpuid_modifiers': [{'leaf': '0x7', 'subleaf': '0x0', 'flags': 0, 'modifiers': "
         "[{'register': 'rax', 'bitmap': '1'}]}]}",
         "unknown variant `rax`"},
        {"{'cpuid_modifiers': [{'leaf': '0x7', 'flags': 0, 'modifiers': []}]}", "`subleaf`"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        refuses(w, "PUT /cpu-config", bad[i][0], bad[i][1]);
    char path[] = "/tmp/trapeze-test-XXXXXX", body[128];
    uint8_t file[0x1000] = {0};
    int fd = mkstemp(path);
    memcpy(file + 0x202, "HdrS", 4);
    assert_int_equal(write(fd, file, sizeof(file)), (ssize_t)sizeof(file));
    close(fd);
    accepts(w, "PUT /cpu-config", "{}");
    accepts(w, BOOT); /* of riscv64 */
    accepts(w, START);
    w->fc.state = FC_NOT_STARTED;
    accepts(w, "PUT /cpu-config", LEAF("0b1x0_"));
    refuses(w, START, "CPU templates are not supported on riscv64");
    snprintf(body, sizeof(body), "{'kernel_image_path': '%s'}", path);
    accepts(w, "PUT /boot-source", body);
    accepts(w, START);
    assert_string_equal(w->config.cpu, "host,cpuid.7.0.ebx=4/5");
    w->fc.state = FC_NOT_STARTED;
    accepts(w, "PUT /cpu-config",
            "{'kvm_capabilities': ['!56', '121'], 'cpuid_modifiers': [{'leaf': '0x1', 'subleaf': "
            "'0x0', 'flags': 0, 'modifiers': [{'register': 'eax', 'bitmap': "
            "'0bxxxx000000000011xx00011011110010'}]}], 'msr_modifiers': [{'addr': '0x10a', 'bitmap': "
            "'0b0000000000000000000000000000000000000000000000000000000000000000'}]}");
    accepts(w, START);
    assert_string_equal(w->config.cpu,
                        "host,kvm.121=on,cpuid.1.0.eax=306f2/fff3fff,msr.10a=0/ffffffffffffffff");
    assert_int_equal(request(w, "GET /vm/config", NULL), 200);
    assert_int_equal(json_object_size(json_object_get(w->answer.body, "cpu-config")), 3);
    unlink(path);
}

#define CONFIG "PUT /mmds/config"

static void the_metadata_service_is_configured(void **state)
{
    struct world *w = *state;
    refuses(w, CONFIG, "{'network_interfaces': []}", "MMMDS config error: The list of network");
    refuses(w, CONFIG, "{'network_interfaces': ['n']}", "does not correspond to any existing");
    refuses(w, CONFIG, "{}", "missing field `network_interfaces`");
    accepts(w, "PUT /network-interfaces/m", "{'iface_id': 'm', 'host_dev_name': 'tap0'}");
    accepts(w, "PUT /network-interfaces/n", "{'iface_id': 'n', 'host_dev_name': 'tap1'}");
    static const char *const bad[][2] = {
        {"{'network_interfaces': ['n', 'o']}", "does not correspond to any existing"},
        {"{'network_interfaces': 'n'}", "expected an array"},
        {"{'network_interfaces': [1]}", "expected a string"},
        {"{'network_interfaces': ['n'], 'version': 'V3'}", "unknown variant `V3`"},
        {"{'network_interfaces': ['n'], 'ipv4_address': ''}", "invalid IPv4 address syntax"},
        {"{'network_interfaces': ['n'], 'ipv4_address': '169.254.0.1'}", "is not link local"},
        {"{'network_interfaces': ['n'], 'ipv4_address': '169.254.255.1'}", "is not link local"},
        {"{'network_interfaces': ['n'], 'ipv4_address': '10.0.0.1'}", "is not link local"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        refuses(w, CONFIG, bad[i][0], bad[i][1]);
    accepts(w, CONFIG, "{'network_interfaces': ['n']}");
    assert_true(w->answer.deprecated); /* version 1 */
    assert_string_equal(w->metadata,
                        "169.254.169.254 01 "
                        "{\"id\":\"vm1\",\"plain\":false,\"store\":null,\"version\":1}");
    accepts(w, CONFIG,
            "{'network_interfaces': ['m', 'n'], 'version': 'V2', 'ipv4_address': '169.254.170.2', "
            "'imds_compat': true}");
    assert_false(w->answer.deprecated);
    assert_string_equal(w->metadata,
                        "169.254.170.2 11 "
                        "{\"id\":\"vm1\",\"plain\":true,\"store\":null,\"version\":2}");
    accepts(w, "PUT /mmds", "{'a': 1}");
    accepts(w, BOOT);
    accepts(w, START);
    refuses(w, CONFIG, "{'network_interfaces': ['n']}", TOO_LATE);
    accepts(w, "PATCH /mmds", "{'b': 2}");
    assert_non_null(strstr(w->metadata, "\"store\":{\"a\":1,\"b\":2}"));
    accepts(w, "PATCH /vm", "{'state': 'Paused'}");
    accepts(w, CREATE, FILES "}");
    begin_anew(w);
    accepts(w, LOAD, FILES "}");
    assert_string_equal(w->metadata,
                        "169.254.170.2 11 "
                        "{\"id\":\"vm2\",\"plain\":true,\"store\":null,\"version\":2}");
    assert_int_equal(request(w, "GET /mmds", NULL), 200);
    assert_int_equal(json_object_size(w->answer.body), 0);
    refuses(w, "PATCH /mmds", "{'b': 2}", "The MMDS data store is not initialized.");
    accepts(w, "PUT /mmds", "{'c': 3}");
}

static void contains(struct world *w, const char *text)
{
    assert_int_equal(request(w, "GET /mmds", NULL), 200);
    char *got = json_dumps(w->answer.body, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    assert_string_equal(got, text);
    free(got);
}

static void the_metadata_are_kept(void **state)
{
    struct world *w = *state;
    contains(w, "{}");
    refuses(w, "PATCH /mmds", "{'a': 1}", "MMDS error: The MMDS data store is not initialized.");
    refuses(w, "PUT /mmds", "{", "deserializing the json body");
    refuses(w, "PUT /mmds", NULL, "Empty PUT request.");
    accepts(w, "PUT /mmds", "{'a': {'b': 1, 'c': [1, 2]}, 'd': 'e'}");
    contains(w, "{\"a\":{\"b\":1,\"c\":[1,2]},\"d\":\"e\"}");
    accepts(w, "PATCH /mmds", "{'a': {'b': null, 'c': {'x': null, 'y': {}}}, 'd': null, 'f': 1.5}");
    contains(w, "{\"a\":{\"c\":{\"y\":{}}},\"f\":1.5}");
    accepts(w, "PATCH /mmds", "'text'");
    contains(w, "\"text\"");
    accepts(w, "PUT /mmds", "null");
    contains(w, "{}");
    w->fc.store_limit = 12;
    accepts(w, "PUT /mmds", "{'a': '1234'}");
    assert_int_equal(request(w, "PUT /mmds", "{'a': '12345'}"), 413);
    assert_non_null(strstr(json_string_value(json_object_get(w->answer.body, "fault_message")),
                           "MMDS limit exceeded error: The MMDS patch request doesn't fit."));
    assert_int_equal(request(w, "PATCH /mmds", "{'b': 1}"), 413);
    contains(w, "{\"a\":\"1234\"}");
    assert_string_equal(w->metadata, ""); /* there is no service */
    begin_anew(w);
    accepts(w, BOOT);
    accepts(w, START);
    refuses(w, "PUT /mmds", "{'a': 1}", "MMDS error: The MMDS data store is not initialized.");
    refuses(w, "GET /mmds", NULL, "MMDS error: The MMDS data store is not initialized.");
}

static void limits_are_of_a_second(void **state)
{
    static const struct {
        const char *bucket;
        unsigned long long rate;
    } rows[] = {{"{\"size\": 1000, \"refill_time\": 100}", 10000},
                {"{\"size\": 0, \"refill_time\": 100}", 0},
                {"{\"size\": 1000, \"refill_time\": 0}", 0},
                {"{\"size\": 1, \"refill_time\": 1000000}", 1},
                {"{\"size\": 9223372036854775807, \"refill_time\": 1}", 1ULL << 50},
                {"{\"size\": 9223372036854775807, \"refill_time\": 9223372036854775807}", 1000}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        json_t *limiter = json_pack("{s:o}", "ops", json_loads(rows[i].bucket, 0, NULL));
        assert_true(fc_per_second(limiter, "ops") == rows[i].rate);
        assert_true(fc_per_second(limiter, "bandwidth") == 0);
        json_decref(limiter);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_instance, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(a_machine_is_configured, setup, teardown),
        cmocka_unit_test_setup_teardown(kernels_choose_the_processor, setup, teardown),
        cmocka_unit_test_setup_teardown(drives_and_interfaces_have_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(a_running_machine_is_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(drives_get_other_files, setup, teardown),
        cmocka_unit_test_setup_teardown(entropy_and_serial_are_limited, setup, teardown),
        cmocka_unit_test_setup_teardown(logs_and_metrics, setup, teardown),
        cmocka_unit_test_setup_teardown(what_there_is_not, setup, teardown),
        cmocka_unit_test_setup_teardown(cpu_templates, setup, teardown),
        cmocka_unit_test_setup_teardown(the_metadata_service_is_configured, setup, teardown),
        cmocka_unit_test_setup_teardown(the_metadata_are_kept, setup, teardown),
        cmocka_unit_test(limits_are_of_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
