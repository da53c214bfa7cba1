/* SPDX-License-Identifier: MIT
 *
 * firecracker/api.h without a machine: what is asked of it when snapshots are made and loaded, and
 * what is refused.
 */
#include "firecracker_world.h"

/* What is to be in the snapshot. */
static void start_machine(struct world *w)
{
    accepts(w, "PUT /machine-config",
            "{'vcpu_count': 2, 'mem_size_mib': 64, 'track_dirty_pages': true}");
    accepts(w, BOOT);
    accepts(w, "PUT /drives/a",
            "{'drive_id': 'a', 'is_root_device': true, 'path_on_host': '/dev/null'}");
    accepts(w, "PUT /network-interfaces/n", "{'iface_id': 'n', 'host_dev_name': 'tap0'}");
    accepts(w, "PUT /vsock", "{'guest_cid': 42, 'uds_path': 'v.sock'}");
    accepts(w, "PUT /balloon", "{'amount_mib': 16, 'deflate_on_oom': true}");
    accepts(w, "PUT /serial", "{'serial_out_path': '/tmp/first'}");
    accepts(w, "PUT /logger", "{'log_path': '/l'}");
    accepts(w, START);
}

static void a_snapshot_is_made(void **state)
{
    struct world *w = *state;
    refuses(w, CREATE, FILES "}", TOO_SOON);
    start_machine(w);
    refuses(w, CREATE, FILES "}",
            "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
            "save/restore unavailable while running");
    accepts(w, "PATCH /vm", "{'state': 'Paused'}");
    refuses(w, CREATE, "{'snapshot_path': '/s'}", "missing field `mem_file_path`");
    refuses(w, CREATE, FILES ", 'version': '1.0'}", "unknown field `version`");
    refuses(w, CREATE, FILES ", 'snapshot_type': 'Half'}", "unknown variant `Half`");
    accepts(w, CREATE, FILES "}");
    assert_string_equal(w->asked, "save /s /m track 67108864");
    accepts(w, CREATE, FILES ", 'snapshot_type': 'Diff'}");
    assert_string_equal(w->asked, "save /s /m changes track 67108864");
    assert_string_equal(told(w, "GET /", "state"), "Paused");
    w->refusal = "no room";
    refuses(w, CREATE, FILES "}", "Create snapshot error: no room");
    w->refusal = NULL;
    accepts(w, "PATCH /vm", "{'state': 'Resumed'}");
    json_t *notes = json_loads(w->notes, 0, NULL);
    assert_int_equal(json_object_size(notes), 6);
    assert_null(json_object_get(notes, "serial"));
    assert_null(json_object_get(notes, "logger"));
    json_decref(notes);
}

static void a_snapshot_is_loaded(void **state)
{
    struct world *w = *state;
    static const char load[] = "{'snapshot_path': '/s', 'mem_backend': {'backend_type': 'File', "
                               "'backend_path': '/m'}, 'network_overrides': [{'iface_id': 'n', "
                               "'host_dev_name': 'tap9'}], 'vsock_override': {'uds_path': '/v2'}}";
    char mac[18];
    start_machine(w);
    snprintf(mac, sizeof(mac), "%s", w->config.nics[0].mac);
    accepts(w, "PATCH /vm", "{'state': 'Paused'}");
    accepts(w, CREATE, FILES "}");
    refuses(w, LOAD, load, TOO_LATE);
    begin_anew(w);
    accepts(w, "PUT /serial", "{'serial_out_path': '/tmp/second'}");
    accepts(w, "PUT /metrics", "{'metrics_path': '/m'}");
    accepts(w, LOAD, load);
    assert_string_equal(w->asked, "open /s /m");
    assert_false(w->answer.deprecated);
    assert_int_equal(w->loads, 1);
    const struct machine_config *config = &w->config;
    assert_null(config->kernel); /* nobody needs it any more */
    assert_string_equal(config->interrupts, "plic");
    assert_true(config->memory == 64 << 20 && config->cpus == 2);
    assert_string_equal(config->disks[0].path, "/dev/null");
    assert_string_equal(config->nics[0].vnet, "tap:tap9");
    assert_string_equal(config->nics[0].mac, mac); /* though it was made up at the first start */
    assert_string_equal(config->vsock_socket, "/v2");
    assert_string_equal(config->serial_path, "/tmp/second");
    assert_string_equal(told(w, "GET /", "state"), "Paused");
    refuses(w, START, TOO_LATE);
    refuses(w, BOOT, TOO_LATE);
    refuses(w, LOAD, load, TOO_LATE);
    assert_false(w->fc.failed);
    assert_int_equal(request(w, "GET /machine-config", NULL), 200);
    assert_true(json_is_false(json_object_get(w->answer.body, "track_dirty_pages")));
    assert_int_equal(request(w, "GET /vm/config", NULL), 200);
    assert_int_equal(json_object_size(json_object_get(w->answer.body, "boot-source")), 0);
    accepts(w, CREATE, FILES ", 'snapshot_type': 'Diff'}");
    assert_string_equal(w->asked, "save /s /m changes 67108864");
    accepts(w, "PATCH /vm", "{'state': 'Resumed'}");
    assert_string_equal(w->asked, "resume {}");
    accepts(w, "PATCH /balloon", "{'amount_mib': 32}");
    accepts(w, "PATCH /drives/a", "{'drive_id': 'a'}");

    begin_anew(w);
    accepts(w, LOAD, FILES ", 'resume_vm': true, 'enable_diff_snapshots': true}");
    assert_true(w->answer.deprecated);
    assert_string_equal(w->asked, "resume {}");
    assert_string_equal(told(w, "GET /", "state"), "Running");
    assert_int_equal(request(w, "GET /machine-config", NULL), 200);
    assert_true(json_is_true(json_object_get(w->answer.body, "track_dirty_pages")));
}

/* Such a process has to end, and nothing was started. */
static void fails_to_load(struct world *w, const char *body, const char *part)
{
    begin_anew(w);
    unsigned starts = w->starts;
    refuses(w, LOAD, body, part);
    assert_true(w->fc.failed);
    assert_int_equal(w->starts, starts);
    assert_string_equal(told(w, "GET /", "state"), "Not started");
}

static void what_cannot_be_loaded(void **state)
{
    struct world *w = *state;
    static const char *const bad[][2] = {
        {"{'mem_file_path': '/m'}", "missing field `snapshot_path`"},
        {"{'snapshot_path': '/s'}",
         "missing field: either `mem_backend` or `mem_file_path` is required."},
        {FILES ", 'mem_backend': {'backend_type': 'File', 'backend_path': '/m'}}",
         "too many fields: either `mem_backend` or `mem_file_path` exclusively is required."},
        {"{'snapshot_path': '/s', 'mem_backend': {'backend_type': 'Disk', 'backend_path': '/m'}}",
         "unknown variant `Disk`"},
        {"{'snapshot_path': '/s', 'mem_backend': {'backend_type': 'Uffd', 'backend_path': '/m'}}",
         "Error creating guest memory from uffd"},
        {FILES ", 'huge_pages': '2M'}", "Cannot restore hugetlbfs backed snapshot"},
        {FILES ", 'huge_pages': '4M'}", "unknown variant `4M`"},
        {FILES ", 'clock_realtime': true}", "clock_realtime is not supported"},
        {FILES ", 'network_overrides': {}}", "expected an array"},
        {FILES ", 'network_overrides': ['n']}", "expected an object"},
        {FILES ", 'network_overrides': [{'iface_id': 'n'}]}", "missing field `host_dev_name`"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        refuses(w, LOAD, bad[i][0], bad[i][1]);
        assert_false(w->fc.failed); /* nothing was begun */
    }
    fails_to_load(w, FILES "}", "Failed to get snapshot state from file: there is nothing");
    static const char *const notes[] = {
        "",
        "[]",
        "{}",
        "{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 64}}",
        "{\"boot-source\": {\"kernel_image_path\": \"k\"}, \"machine-config\": 1}",
        "{\"boot-source\": {\"kernel_image_path\": \"k\"}, \"machine-config\": "
        "{\"vcpu_count\": 1, \"mem_size_mib\": 64}, \"drives\": [1]}",
        "{\"boot-source\": {\"kernel_image_path\": \"k\"}, \"machine-config\": "
        "{\"vcpu_count\": 1, \"mem_size_mib\": 64}, \"drives\": {}}",
        "{\"boot-source\": {\"kernel_image_path\": \"k\"}, \"machine-config\": "
        "{\"vcpu_count\": 1, \"mem_size_mib\": 64}, \"network-interfaces\": [{}]}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(notes); i++) {
        free(w->notes);
        w->notes = strdup(notes[i]);
        fails_to_load(w, FILES "}", "no snapshot of this API's");
    }
    free(w->notes);
    w->notes = strdup("{\"boot-source\": {\"kernel_image_path\": \"k\"}, \"machine-config\": "
                      "{\"vcpu_count\": 1, \"mem_size_mib\": 1}, \"extra\": 1}");
    fails_to_load(w, FILES "}", "The memory size (MiB) is invalid");
    start_machine(w);
    accepts(w, "PATCH /vm", "{'state': 'Paused'}");
    accepts(w, CREATE, FILES "}");
    fails_to_load(w, FILES ", 'network_overrides': [{'iface_id': 'm', 'host_dev_name': 't'}]}",
                  "Unknown Network Device");
    fails_to_load(w, FILES ", 'network_overrides': [{'iface_id': 'n', 'host_dev_name': '../t'}]}",
                  "not the name of a network interface");
    w->refusal = "it is another machine";
    fails_to_load(w, FILES "}",
                  "Load snapshot error: Failed to restore from snapshot: it is another machine");
    w->refusal = NULL;
    static const char *const first[] = {
        "PUT /boot-source\n{'kernel_image_path': '/not/there'}",
        "PATCH /machine-config\n{'vcpu_count': 2}",
        "PUT /entropy\n{}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(first); i++) {
        char line[64];
        const char *body = strchr(first[i], '\n');
        begin_anew(w);
        snprintf(line, sizeof(line), "%.*s", (int)(body - first[i]), first[i]);
        (void)request(w, line, body + 1);
        refuses(w, LOAD, FILES "}", "not allowed after configuring boot-specific resources");
        assert_false(w->fc.failed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_snapshot_is_made, setup, teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_is_loaded, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_loaded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
