/* SPDX-License-Identifier: MIT
 *
 * What the files of firecracker/api.h share: answers, resources and questions to the machine.
 */
#ifndef TRAPEZE_FIRECRACKER_INTERNAL_H
#define TRAPEZE_FIRECRACKER_INTERNAL_H

#include "firecracker/api.h"

/* Each answers, and that is all there is to it. */
void fc_fault(struct fc_answer *answer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void fc_fault_error(struct fc_answer *answer, struct error *error); /* takes it */
void fc_done(struct fc_answer *answer);
void fc_tell(struct fc_answer *answer, json_t *body); /* takes it */

json_t *fc_resource(const struct fc *fc, const char *name); /* borrowed; NULL: there is none */
void fc_keep(struct fc *fc, const char *name, json_t *body, struct fc_answer *answer);
/* Whether a file that the request names can be opened as it will be. */
bool fc_reachable(const char *path, int mode, const char *what, struct fc_answer *answer);
/* Whether the name can be one of a network interface of this host. */
bool fc_device_fits(const char *name, struct fc_answer *answer);
/* The place of the entry in a list that has this id; the list's size: there is none. */
size_t fc_place_of(const json_t *list, const char *name, const char *id);
bool fc_machine_is_possible(const json_t *machine, struct fc_answer *answer);

/* A verb of the worker's. NULL, false: the answer is a fault. Takes the arguments. */
json_t *fc_ask(struct fc *fc, const char *verb, json_t *arguments, struct fc_answer *answer);
bool fc_command(struct fc *fc, const char *verb, json_t *arguments, struct fc_answer *answer);

/* A request: the body has passed its table. */
typedef void fc_run_fn(struct fc *fc, const char *id, json_t *body, struct fc_answer *answer);

fc_run_fn fc_put_snapshot_create, fc_put_snapshot_load; /* snapshot.c */

/* devices.c */
fc_run_fn fc_put_drive, fc_patch_drive, fc_put_nic, fc_patch_nic;
/* What the description of a machine does not say, of one that has just begun or gone on. */
bool fc_limit_devices(struct fc *fc, struct error **err);

/* cpu_template.c */
fc_run_fn fc_put_cpu_config;
/* A template as more of machine_config.cpu, the caller's; NULL: the answer says why not. */
char *fc_cpu_changes(const json_t *template, struct fc_answer *answer);

/* mmds.c */
fc_run_fn fc_put_mmds_config, fc_put_mmds, fc_patch_mmds, fc_get_mmds;
/* False: the answer says why not. */
bool fc_metadata_fits(const json_t *resources, const json_t *config, struct fc_answer *answer);
bool fc_tell_metadata(struct fc *fc, struct error **err); /* fine if there is no such service */

#endif
