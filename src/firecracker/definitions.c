/* SPDX-License-Identifier: MIT
 *
 * See definitions.h.
 */
#include "firecracker/definitions.h"

#include <stddef.h>

#include "config/machine.h"

#define END                                                                                        \
    {                                                                                              \
        .kind = FC_END                                                                             \
    }
#define CHOICES(...) ((const char *const[]){__VA_ARGS__, NULL})

/* A bucket of `size` tokens that is full again after `refill_time` ms. */
static const struct fc_field token_bucket[] = {
    {.name = "size", .kind = FC_UINT, .required = true, .max = INT64_MAX},
    {.name = "refill_time", .kind = FC_UINT, .required = true, .max = INT64_MAX},
    {.name = "one_time_burst", .kind = FC_UINT},
    END,
};

static const struct fc_field rate_limiter[] = {
    {.name = "bandwidth", .kind = FC_OBJECT, .fields = token_bucket},
    {.name = "ops", .kind = FC_OBJECT, .fields = token_bucket},
    END,
};

const struct fc_field fc_machine_configuration[] = {
    {.name = "vcpu_count", .kind = FC_UINT, .required = true, .min = 1, .max = 32},
    {.name = "mem_size_mib", .kind = FC_UINT, .required = true, .min = 1, .max = UINT32_MAX},
    {.name = "smt", .kind = FC_BOOL, .preset = "false"},
    {.name = "cpu_template",
     .kind = FC_TEXT,
     .choices = CHOICES("C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"),
     .preset = "\"None\""},
    {.name = "track_dirty_pages", .kind = FC_BOOL, .preset = "false"},
    {.name = "huge_pages",
     .kind = FC_TEXT,
     .choices = CHOICES("None", "Transparent", "2M"),
     .preset = "\"None\""},
    END,
};

static const struct fc_field cpuid_register_modifier[] = {
    {.name = "register",
     .kind = FC_TEXT,
     .required = true,
     .choices = CHOICES("eax", "ebx", "ecx", "edx")},
    {.name = "bitmap", .kind = FC_TEXT, .required = true},
    END,
};

/* What flags say (whether an answer depends on the subleaf) is a fact that we know ourselves. */
static const struct fc_field cpuid_leaf_modifier[] = {
    {.name = "leaf", .kind = FC_TEXT, .required = true},
    {.name = "subleaf", .kind = FC_TEXT, .required = true},
    {.name = "flags", .kind = FC_UINT, .required = true, .max = UINT32_MAX},
    {.name = "modifiers", .kind = FC_LIST, .required = true, .fields = cpuid_register_modifier},
    END,
};

static const struct fc_field msr_modifier[] = {
    {.name = "addr", .kind = FC_TEXT, .required = true},
    {.name = "bitmap", .kind = FC_TEXT, .required = true},
    END,
};

const struct fc_field fc_cpu_config[] = {
    {.name = "kvm_capabilities", .kind = FC_LIST},
    {.name = "cpuid_modifiers", .kind = FC_LIST, .fields = cpuid_leaf_modifier},
    {.name = "msr_modifiers", .kind = FC_LIST, .fields = msr_modifier},
    END,
};

const struct fc_field fc_boot_source[] = {
    {.name = "kernel_image_path", .kind = FC_TEXT, .required = true},
    {.name = "initrd_path", .kind = FC_TEXT},
    {.name = "boot_args", .kind = FC_TEXT},
    END,
};

const struct fc_field fc_drive[] = {
    {.name = "drive_id", .kind = FC_TEXT, .required = true},
    {.name = "is_root_device", .kind = FC_BOOL, .required = true},
    {.name = "path_on_host", .kind = FC_TEXT, .required = true},
    {.name = "partuuid", .kind = FC_TEXT},
    {.name = "is_read_only", .kind = FC_BOOL, .preset = "false"},
    {.name = "cache_type",
     .kind = FC_TEXT,
     .choices = CHOICES("Unsafe", "Writeback"),
     .preset = "\"Unsafe\""},
    {.name = "io_engine",
     .kind = FC_TEXT,
     .choices = CHOICES("Sync", "Async"),
     .preset = "\"Sync\""},
    {.name = "rate_limiter", .kind = FC_OBJECT, .fields = rate_limiter},
    {.name = "socket", .kind = FC_UNSUPPORTED}, /* vhost-user */
    END,
};

const struct fc_field fc_partial_drive[] = {
    {.name = "drive_id", .kind = FC_TEXT, .required = true},
    {.name = "path_on_host", .kind = FC_TEXT},
    {.name = "rate_limiter", .kind = FC_OBJECT, .fields = rate_limiter},
    END,
};

const struct fc_field fc_network_interface[] = {
    {.name = "iface_id", .kind = FC_TEXT, .required = true},
    {.name = "host_dev_name", .kind = FC_TEXT, .required = true},
    {.name = "guest_mac", .kind = FC_TEXT},
    {.name = "mtu", .kind = FC_UINT, .min = 68, .max = 65535},
    {.name = "rx_rate_limiter", .kind = FC_OBJECT, .fields = rate_limiter},
    {.name = "tx_rate_limiter", .kind = FC_OBJECT, .fields = rate_limiter},
    END,
};

const struct fc_field fc_partial_network_interface[] = {
    {.name = "iface_id", .kind = FC_TEXT, .required = true},
    {.name = "rx_rate_limiter", .kind = FC_OBJECT, .fields = rate_limiter},
    {.name = "tx_rate_limiter", .kind = FC_OBJECT, .fields = rate_limiter},
    END,
};

const struct fc_field fc_vsock[] = {
    {.name = "guest_cid", .kind = FC_UINT, .required = true, .min = 3, .max = UINT32_MAX},
    {.name = "uds_path", .kind = FC_TEXT, .required = true},
    {.name = "vsock_id", .kind = FC_TEXT}, /* deprecated, and means nothing */
    END,
};

const struct fc_field fc_balloon[] = {
    {.name = "amount_mib", .kind = FC_UINT, .required = true, .max = UINT32_MAX},
    {.name = "deflate_on_oom", .kind = FC_BOOL, .required = true},
    {.name = "stats_polling_interval_s", .kind = FC_UINT, .max = UINT16_MAX, .preset = "0"},
    {.name = "free_page_hinting", .kind = FC_BOOL, .preset = "false"},
    {.name = "free_page_reporting", .kind = FC_BOOL, .preset = "false"},
    END,
};

const struct fc_field fc_balloon_update[] = {
    {.name = "amount_mib", .kind = FC_UINT, .required = true, .max = UINT32_MAX},
    END,
};

const struct fc_field fc_balloon_stats_update[] = {
    {.name = "stats_polling_interval_s", .kind = FC_UINT, .required = true, .max = UINT16_MAX},
    END,
};

const struct fc_field fc_entropy_device[] = {
    {.name = "rate_limiter", .kind = FC_OBJECT, .fields = rate_limiter},
    END,
};

const struct fc_field fc_serial_device[] = {
    {.name = "serial_out_path", .kind = FC_TEXT},
    {.name = "rate_limiter", .kind = FC_OBJECT, .fields = token_bucket},
    END,
};

const struct fc_field fc_logger[] = {
    {.name = "log_path", .kind = FC_TEXT},
    {.name = "level", .kind = FC_TEXT},
    {.name = "show_level", .kind = FC_BOOL, .preset = "false"},
    {.name = "show_log_origin", .kind = FC_BOOL, .preset = "false"},
    {.name = "module", .kind = FC_TEXT},
    END,
};

const struct fc_field fc_metrics[] = {
    {.name = "metrics_path", .kind = FC_TEXT, .required = true},
    {.name = "emit_id", .kind = FC_BOOL, .preset = "false"},
    {.name = "properties", .kind = FC_TEXTS},
    END,
};

const struct fc_field fc_instance_action_info[] = {
    {.name = "action_type",
     .kind = FC_TEXT,
     .required = true,
     .choices = CHOICES("FlushMetrics", "InstanceStart", "SendCtrlAltDel")},
    END,
};

const struct fc_field fc_vm[] = {
    {.name = "state", .kind = FC_TEXT, .required = true, .choices = CHOICES("Paused", "Resumed")},
    END,
};

const struct fc_field fc_snapshot_create_params[] = {
    {.name = "snapshot_path", .kind = FC_TEXT, .required = true},
    {.name = "mem_file_path", .kind = FC_TEXT, .required = true},
    {.name = "snapshot_type",
     .kind = FC_TEXT,
     .choices = CHOICES("Full", "Diff"),
     .preset = "\"Full\""},
    END,
};

static const struct fc_field memory_backend[] = {
    {.name = "backend_type", .kind = FC_TEXT, .required = true, .choices = CHOICES("File", "Uffd")},
    {.name = "backend_path", .kind = FC_TEXT, .required = true},
    END,
};

static const struct fc_field network_override[] = {
    {.name = "iface_id", .kind = FC_TEXT, .required = true},
    {.name = "host_dev_name", .kind = FC_TEXT, .required = true},
    END,
};

static const struct fc_field vsock_override[] = {
    {.name = "uds_path", .kind = FC_TEXT, .required = true},
    END,
};

const struct fc_field fc_snapshot_load_params[] = {
    {.name = "snapshot_path", .kind = FC_TEXT, .required = true},
    {.name = "mem_file_path", .kind = FC_TEXT},
    {.name = "mem_backend", .kind = FC_OBJECT, .fields = memory_backend},
    {.name = "enable_diff_snapshots", .kind = FC_BOOL},
    {.name = "track_dirty_pages", .kind = FC_BOOL},
    {.name = "resume_vm", .kind = FC_BOOL},
    {.name = "network_overrides", .kind = FC_LIST, .fields = network_override},
    {.name = "vsock_override", .kind = FC_OBJECT, .fields = vsock_override},
    {.name = "clock_realtime", .kind = FC_BOOL},
    {.name = "huge_pages",
     .kind = FC_TEXT,
     .choices = CHOICES("Snapshot", "None", "Transparent", "2M")},
    END,
};

const struct fc_field fc_any[] = {
    {.kind = FC_ANY},
    END,
};

const struct fc_field fc_mmds_config[] = {
    {.name = "version", .kind = FC_TEXT, .choices = CHOICES("V1", "V2"), .preset = "\"V1\""},
    {.name = "network_interfaces", .kind = FC_LIST, .required = true},
    {.name = "ipv4_address", .kind = FC_TEXT},
    {.name = "imds_compat", .kind = FC_BOOL, .preset = "false"},
    END,
};
