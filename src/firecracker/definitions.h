/* SPDX-License-Identifier: MIT
 *
 * Definitions of Firecracker's published API description, as far as a machine of ours can have
 * them: those names in camel case are these tables' in lower case.
 */
#ifndef TRAPEZE_FIRECRACKER_DEFINITIONS_H
#define TRAPEZE_FIRECRACKER_DEFINITIONS_H

#include "firecracker/schema.h"

extern const struct fc_field fc_any[]; /* JSON of any kind */
extern const struct fc_field fc_balloon[], fc_balloon_stats_update[], fc_balloon_update[],
    fc_boot_source[], fc_cpu_config[], fc_drive[], fc_entropy_device[], fc_instance_action_info[], fc_logger[],
    fc_machine_configuration[], fc_metrics[], fc_mmds_config[], fc_network_interface[],
    fc_partial_drive[], fc_partial_network_interface[], fc_serial_device[],
    fc_snapshot_create_params[], fc_snapshot_load_params[], fc_vm[], fc_vsock[];

#endif
