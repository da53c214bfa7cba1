/* SPDX-License-Identifier: MIT
 *
 * DELETE /v1/instances/{name}/migrate.
 */
#include "daemon/api.h"
#include "daemon/migrate_out.h"

const struct api_verb api_migrate_cancel = {
    .id = "migrate-cancel",
    .method = "DELETE",
    .path = "/v1/instances/{name}/migrate",
    .summary = "Call a migration off, as long as the machine is not being handed over",
    .answer = API_ANSWER_NAME,
    .status = 200,
    .remote = true,
    .run = migrate_out_cancel,
};
