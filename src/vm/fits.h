/* SPDX-License-Identifier: MIT
 *
 * Comparing layouts, for arrange.c. Threads: any.
 */
#ifndef TRAPEZE_VM_FITS_H
#define TRAPEZE_VM_FITS_H

#include <stdbool.h>

struct error;

/* Whether a machine of that layout can take up a state that was saved with the layout `saved`, once it is
 * arranged like that. `clone`: NICs may have other addresses. */
bool vm_layout_fits(const char *layout, const char *saved, bool clone, struct error **err);
/* Whether it is arranged like that. */
bool vm_layout_is(const char *layout, const char *saved, bool clone, struct error **err);

#endif
