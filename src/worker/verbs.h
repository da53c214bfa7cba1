/* SPDX-License-Identifier: MIT
 *
 * Verbs whose functions are not in verbs.c.
 */
#ifndef TRAPEZE_WORKER_VERBS_H
#define TRAPEZE_WORKER_VERBS_H

#include "worker/control.h"

json_t *verb_metrics(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_stats(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_disks(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_disk_attach(struct control_target *target, const json_t *arguments,
                         struct error **err);
json_t *verb_disk_detach(struct control_target *target, const json_t *arguments,
                         struct error **err);
json_t *verb_eject(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_insert(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_disk_replace(struct control_target *target, const json_t *arguments,
                          struct error **err);
json_t *verb_nic_attach(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_nic_detach(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_clone(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_usage(struct control_target *target, const json_t *arguments, struct error **err);
/* Bytes of this process in RAM; -1: /proc was out of reach when it began. */
json_int_t control_resident(const struct control_target *target);

json_t *verb_snapshot(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_suspend(struct control_target *target, const json_t *arguments, struct error **err);
/* Of a machine that ends; NULL is fine. */
void suspension_free(struct suspension *suspension);

json_t *verb_migrate(struct control_target *target, const json_t *arguments, struct error **err);
json_t *verb_migrate_resolve(struct control_target *target, const json_t *arguments,
                             struct error **err);
json_t *verb_migrate_recover(struct control_target *target, const json_t *arguments,
                             struct error **err);
json_t *verb_incoming(struct control_target *target, const json_t *arguments, struct error **err);
/* As suspension_free(). */
void migration_free(struct migration *migration);
/* It stands still for good, or until it is known to have failed. */
bool migration_is_away(const struct migration *migration);
bool migration_allows(const struct control_target *target, const struct control_verb *verb,
                      struct error **err);
json_t *migration_status(const struct control_target *target); /* NULL: nothing is under way */

#endif
