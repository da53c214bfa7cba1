/* SPDX-License-Identifier: MIT
 *
 * Firecracker's API against clients that send anything.
 *
 * Input: requests, each "METHOD PATH\n" and a body up to a zero byte. The checks are those of
 * asserts and sanitizers, and: every answer is 200 with a body, 204 without one or 400 or 413 with
 * a fault_message; a machine that is started passes the check of its description.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "config/machine.h"
#include "firecracker/api.h"

static bool start(void *opaque, const struct machine_config *config, struct error **err)
{
    (void)opaque;
    fuzz_check(machine_config_check(config, NULL));
    fuzz_check(config->disk_count <= MACHINE_MAX_DISKS && config->nic_count <= MACHINE_MAX_NICS);
    return config->cpus % 2 != 0 || error_set(err, ERROR_HOST, "no");
}

static json_t *verb(void *opaque, const char *name, const json_t *arguments, struct error **err)
{
    (void)opaque, (void)name;
    fuzz_check(json_is_object(arguments));
    if (json_object_size(arguments) % 2 == 0)
        return json_object();
    error_set(err, ERROR_HOST, "no");
    return NULL;
}

static bool replace(void *opaque, size_t drive, const char *path, bool read_only,
                    struct error **err)
{
    (void)opaque, (void)read_only;
    fuzz_check(drive < MACHINE_MAX_DISKS);
    return path[0] != '/' || error_set(err, ERROR_HOST, "no");
}

static bool open_file(void *opaque, const char *path, struct error **err)
{
    (void)opaque;
    return path[0] != '/' || error_set(err, ERROR_HOST, "no");
}

static void write_metrics(void *opaque, const char *line)
{
    (void)opaque;
    fuzz_check(strchr(line, '\n') == NULL);
}

static bool save(void *opaque, const struct fc_snapshot *snapshot, struct error **err)
{
    (void)opaque;
    json_t *notes = json_loads(snapshot->notes, 0, NULL);
    fuzz_check(json_object_get(notes, "boot-source") != NULL && snapshot->memory_size > 0);
    json_decref(notes);
    return snapshot->state[0] != '/' || error_set(err, ERROR_HOST, "no");
}

/* A stranger's notes are the file's name. */
static char *open_saved(void *opaque, const char *state, const char *memory,
                        struct machine_config *was, struct error **err)
{
    (void)opaque, (void)was;
    if (memory[0] != '/')
        return strdup(state);
    error_set(err, ERROR_HOST, "no");
    return NULL;
}

static bool go_on(void *opaque, const struct machine_config *config, struct error **err)
{
    (void)opaque;
    fuzz_check(machine_config_check_parts(config, NULL));
    fuzz_check(config->disk_count <= MACHINE_MAX_DISKS && config->nic_count <= MACHINE_MAX_NICS);
    return config->cpus % 2 != 0 || error_set(err, ERROR_HOST, "no");
}

static bool metadata(void *opaque, const struct fc_metadata *metadata, struct error **err)
{
    (void)opaque;
    const json_t *store = json_object_get(metadata->message, "store");
    fuzz_check(strncmp(metadata->address, "169.254.", 8) == 0 && store != NULL);
    return !json_is_string(store) || error_set(err, ERROR_HOST, "no");
}

static const struct fc_host host = {start,         verb, replace,    open_file, open_file,
                                    write_metrics, save, open_saved, go_on,     metadata};

static void check_answer(const struct fc_answer *answer)
{
    const json_t *why = json_object_get(answer->body, "fault_message");
    bool failed = answer->status == 400 || answer->status == 413;
    fuzz_check(answer->status == 200 || answer->status == 204 || failed);
    fuzz_check((answer->body == NULL) == (answer->status == 204));
    fuzz_check(why != NULL || !failed);
    if (answer->body == NULL)
        return;
    char *text = json_dumps(answer->body, JSON_COMPACT | JSON_ENCODE_ANY);
    fuzz_check(text != NULL && strchr(text, '\n') == NULL);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fc fc;
    char *all = malloc(size + 1), *at = all;
    memcpy(all, data, size);
    all[size] = '\0';
    fc_init(&fc, "fuzz", &host, NULL);
    while (at < all + size) {
        struct fc_answer answer;
        char method[16] = "", path[128] = "";
        size_t length = strlen(at);
        char *body = memchr(at, '\n', length);
        (void)sscanf(at, "%15s %127[^\n]", method, path);
        body = body != NULL ? body + 1 : at + length;
        size_t body_size = (size_t)(at + length - body);
        fc_request(&fc, method, path, body_size > 0 ? body : NULL, body_size, &answer);
        check_answer(&answer);
        json_decref(answer.body);
        at += length + 1;
    }
    fc_clear(&fc);
    free(all);
    return 0;
}

/* Requests that mostly mean something, in any order, some of them damaged. */
size_t fuzz_generate(uint64_t *seed, uint8_t *data)
{
    static const char *const requests[] = {
        "PUT /machine-config\n{\"vcpu_count\": 1, \"mem_size_mib\": 128}",
        "PUT /machine-config\n{\"vcpu_count\": 2, \"mem_size_mib\": 4294967295, \"smt\": true}",
        "PATCH /machine-config\n{\"mem_size_mib\": 64}",
        "PUT /cpu-config\n{\"kvm_capabilities\": [\"!56\", \"1\"], \"msr_modifiers\": [{\"addr\": "
        "\"0x10a\", \"bitmap\": \"0b0_x1\"}]}",
        "PUT /cpu-config\n{\"cpuid_modifiers\": [{\"leaf\": \"0x7\", \"subleaf\": \"0b0\", "
        "\"flags\": 0, \"modifiers\": [{\"register\": \"ebx\", \"bitmap\": \"0b1x0\"}]}]}",
        "PUT /boot-source\n{\"kernel_image_path\": \"/dev/null\", \"boot_args\": \"a b\"}",
        "PUT /boot-source\n{\"kernel_image_path\": \"/dev/null\", \"initrd_path\": null}",
        "PUT /drives/a\n{\"drive_id\": \"a\", \"is_root_device\": true, \"path_on_host\": "
        "\"/dev/null\", \"partuuid\": \"1-2\"}",
        "PUT /drives/b\n{\"drive_id\": \"b\", \"is_root_device\": false, \"path_on_host\": "
        "\"/dev/null\", \"rate_limiter\": {\"ops\": {\"size\": 9223372036854775807, "
        "\"refill_time\": 1}}}",
        "PATCH /drives/b\n{\"drive_id\": \"b\", \"rate_limiter\": {\"bandwidth\": {\"size\": 1, "
        "\"refill_time\": 9}}}",
        "PATCH /drives/a\n{\"drive_id\": \"a\", \"path_on_host\": \"b\"}",
        "PATCH /drives/b\n{\"drive_id\": \"b\", \"path_on_host\": \"/b\", \"rate_limiter\": "
        "{\"ops\": {\"size\": 0, \"refill_time\": 0}}}",
        "PUT /network-interfaces/n\n{\"iface_id\": \"n\", \"host_dev_name\": \"tap0\", "
        "\"guest_mac\": \"02:00:00:00:00:01\", \"mtu\": 1500}",
        "PATCH /network-interfaces/n\n{\"iface_id\": \"n\"}",
        "PATCH /network-interfaces/n\n{\"iface_id\": \"n\", \"rx_rate_limiter\": {\"ops\": "
        "{\"size\": 5, \"refill_time\": 0}}}",
        "PUT /vsock\n{\"guest_cid\": 3, \"uds_path\": \"v\"}",
        "PUT /balloon\n{\"amount_mib\": 16, \"deflate_on_oom\": true, "
        "\"stats_polling_interval_s\": 1}",
        "PATCH /balloon\n{\"amount_mib\": 200}",
        "GET /balloon/statistics",
        "PATCH /balloon/statistics\n{\"stats_polling_interval_s\": 2}",
        "PUT /entropy\n{}",
        "PUT /entropy\n{\"rate_limiter\": {\"ops\": {\"size\": 5, \"refill_time\": 7}}}",
        "PUT /serial\n{\"serial_out_path\": \"s\"}",
        "PUT /serial\n{\"rate_limiter\": {\"size\": 5, \"refill_time\": 7}}",
        "PUT /logger\n{\"log_path\": \"l\", \"level\": \"Info\"}",
        "PUT /metrics\n{\"metrics_path\": \"m\", \"emit_id\": true}",
        "PUT /actions\n{\"action_type\": \"InstanceStart\"}",
        "PUT /actions\n{\"action_type\": \"FlushMetrics\"}",
        "PATCH /vm\n{\"state\": \"Paused\"}",
        "PATCH /vm\n{\"state\": \"Resumed\"}",
        "GET /vm/config",
        "GET /",
        "PUT /mmds\n{\"a\": {\"b\": [1, \"c\"]}}",
        "PUT /mmds\n\"text\"",
        "PATCH /mmds\n{\"a\": {\"b\": null}, \"d\": {\"e\": {\"f\": 1}}}",
        "GET /mmds",
        "PUT /mmds/config\n{\"network_interfaces\": [\"n\"], \"version\": \"V2\", "
        "\"ipv4_address\": \"169.254.1.1\"}",
        "PUT /snapshot/create\n{\"snapshot_path\": \"s\", \"mem_file_path\": \"m\", "
        "\"snapshot_type\": \"Diff\"}",
        "PUT /snapshot/load\n{\"snapshot_path\": \"{\\\"boot-source\\\": "
        "{\\\"kernel_image_path\\\": \\\"k\\\"}, \\\"machine-config\\\": "
        "{\\\"vcpu_count\\\": 1, \\\"mem_size_mib\\\": 64}, \\\"network-interfaces\\\": "
        "[{\\\"iface_id\\\": \\\"n\\\", \\\"host_dev_name\\\": \\\"t\\\"}]}\", "
        "\"mem_file_path\": \"m\", \"resume_vm\": true, \"network_overrides\": [{\"iface_id\": "
        "\"n\", \"host_dev_name\": \"tap1\"}]}",
        "PUT /snapshot/load\n{\"snapshot_path\": \"[]\", \"mem_file_path\": \"m\"}",
    };
    size_t size = 0;
    for (unsigned i = (unsigned)(fuzz_random(seed) % 12); i > 0; i--) {
        const char *request =
            requests[fuzz_random(seed) % (sizeof(requests) / sizeof(requests[0]))];
        size_t length = strlen(request) + 1;
        if (size + length > FUZZ_INPUT_MAX)
            break;
        memcpy(data + size, request, length);
        if (fuzz_random(seed) % 4 == 0) {
            uint64_t r = fuzz_random(seed);
            data[size + r % length] = (uint8_t)(r >> 32);
        }
        size += length;
    }
    return size;
}
