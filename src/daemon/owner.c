/* SPDX-License-Identifier: MIT
 *
 * See owner.h.
 */
#include "daemon/owner.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>

void owner_name(uid_t uid, char name[OWNER_MAX])
{
    char buffer[4096];
    struct passwd entry, *found = NULL;
    if (getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found) == 0 && found != NULL &&
        strlen(found->pw_name) < OWNER_MAX)
        strcpy(name, found->pw_name);
    else
        snprintf(name, OWNER_MAX, "%u", (unsigned)uid);
}
