/* SPDX-License-Identifier: MIT
 *
 * See vsock.h.
 */
#include "client/vsock.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "client/backend.h"
#include "client/worker.h"
#include "config/machine.h"

static bool start_connector(struct client_vsock *vsock, const char *path, struct error **err)
{
    struct backend backend;
    int status[2], pair[2];
    if (!backend_pipe(status, err))
        return false;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        close(status[0]);
        close(status[1]);
        return error_set_errno(err, errno, "cannot make a socket pair");
    }
    backend_begin(&backend, "vsock-connect", status[1]);
    backend_add_fd(&backend, pair[1]);
    backend_add(&backend, path);
    vsock->pid = backend_spawn(&backend, status, false, err);
    close(pair[1]);
    vsock->connector = pair[0];
    return vsock->pid > 0;
}

bool client_vsock_start(const struct machine_config *config, struct client_vsock *vsock,
                        struct error **err)
{
    *vsock = (struct client_vsock){.listen = -1, .connector = -1};
    const char *path = config->vsock_socket;
    if (path == NULL)
        return true;
    vsock->listen = client_listen(path, err);
    if (vsock->listen < 0) {
        error_prefix(err, "the guest's vsock");
        return false;
    }
    if (start_connector(vsock, path, err))
        return true;
    (void)unlink(path);
    vsock->pid = 0;
    client_vsock_close(vsock);
    return false;
}

void client_vsock_close(struct client_vsock *vsock)
{
    if (vsock->listen >= 0)
        close(vsock->listen);
    if (vsock->connector >= 0)
        close(vsock->connector);
    vsock->listen = vsock->connector = -1;
}

void client_vsock_stop(struct client_vsock *vsock)
{
    client_vsock_close(vsock);
    while (vsock->pid > 0 && waitpid(vsock->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    vsock->pid = 0;
}
