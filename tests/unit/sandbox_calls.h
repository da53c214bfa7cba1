/* SPDX-License-Identifier: MIT
 *
 * System calls that are the end of a worker, whatever their arguments: X(name, arguments). `k` is
 * what an attacker knows.
 */
#ifndef TRAPEZE_TESTS_SANDBOX_CALLS_H
#define TRAPEZE_TESTS_SANDBOX_CALLS_H

/* clang-format off */
#define SANDBOX_CALLS(X)                                                                           \
    /* programs and processes */                                                                   \
    X(execve, "/bin/sh", NULL, NULL)                                                               \
    X(execveat, 0, "", NULL, NULL, AT_EMPTY_PATH)                                                  \
    X(fork, 0)                                                                                     \
    X(vfork, 0)                                                                                    \
    X(ptrace, 16 /* PTRACE_ATTACH */, k->victim, NULL, NULL)                                       \
    X(process_vm_readv, k->victim, NULL, 0, NULL, 0, 0)                                            \
    X(process_vm_writev, k->victim, NULL, 0, NULL, 0, 0)                                           \
    X(process_madvise, 3, NULL, 0, 0, 0)                                                           \
    X(pidfd_open, k->victim, 0)                                                                    \
    X(pidfd_getfd, 3, 0, 0)                                                                        \
    X(pidfd_send_signal, 3, 9, NULL, 0)                                                            \
    X(kcmp, k->victim, k->victim, 0, 0, 0)                                                         \
    X(move_pages, k->victim, 0, NULL, NULL, NULL, 0)                                               \
    X(kill, k->victim, 0)                                                                          \
    X(tkill, k->victim, 0)                                                                         \
    X(rt_sigqueueinfo, k->victim, 0, NULL)                                                         \
    X(rt_tgsigqueueinfo, k->victim, k->victim, 0, NULL)                                            \
    X(timer_create, CLOCK_MONOTONIC, NULL, NULL)                                                   \
    X(setsid, 0)                                                                                   \
    X(sched_setaffinity, 0, 0, NULL)                                                               \
    X(setpriority, PRIO_PROCESS, 0, -20)                                                           \
    X(ioprio_set, 1, 0, 0)                                                                         \
    /* namespaces, mounts, files */                                                                \
    X(unshare, CLONE_NEWUSER)                                                                      \
    X(setns, 3, 0)                                                                                 \
    X(mount, "none", "/", "tmpfs", 0, NULL)                                                        \
    X(umount2, "/", MNT_DETACH)                                                                    \
    X(pivot_root, ".", ".")                                                                        \
    X(chroot, "/")                                                                                 \
    X(open_tree, 3, "", AT_EMPTY_PATH | 1 /* OPEN_TREE_CLONE */)                                   \
    X(fsopen, "tmpfs", 0)                                                                          \
    X(move_mount, 3, "", AT_FDCWD, "/", 4)                                                         \
    X(mount_setattr, 3, "", AT_EMPTY_PATH, NULL, 0)                                                \
    X(open_by_handle_at, 3, NULL, 0)                                                               \
    X(name_to_handle_at, 3, "", NULL, NULL, AT_EMPTY_PATH)                                         \
    X(openat2, AT_FDCWD, "/", NULL, 0)                                                             \
    X(fanotify_init, 0, 0)                                                                         \
    X(inotify_init1, 0)                                                                            \
    X(quotactl, 0, NULL, 0, NULL)                                                                  \
    X(swapon, "/", 0)                                                                              \
    X(acct, NULL)                                                                                  \
    X(copy_file_range, 3, NULL, 3, NULL, 1, 0)                                                     \
    X(splice, 3, NULL, 3, NULL, 1, 0)                                                              \
    X(vmsplice, 3, NULL, 0, 0)                                                                     \
    X(dup2, 2, 3)                                                                                  \
    X(io_uring_setup, 1, NULL)                                                                     \
    /* sockets and messages */                                                                     \
    X(bind, 3, NULL, 0)                                                                            \
    X(listen, 3, 1)                                                                                \
    X(msgget, 0, 0600)                                                                             \
    X(semget, 0, 1, 0600)                                                                          \
    X(mq_open, "x", O_RDWR, 0, NULL)                                                               \
    X(shmget, 0, 4096, 0600)                                                                       \
    /* memory */                                                                                   \
    X(shmat, 0, NULL, 0100000 /* SHM_EXEC */)                                                      \
    X(pkey_mprotect, NULL, 0, PROT_EXEC, -1)                                                       \
    X(remap_file_pages, NULL, 0, 0, 0, 0)                                                          \
    X(memfd_secret, 0)                                                                             \
    X(userfaultfd, 0)                                                                              \
    X(personality, 0x400000 /* READ_IMPLIES_EXEC */)                                               \
    /* privileges, keys, the kernel itself */                                                      \
    X(setuid, 0)                                                                                   \
    X(capset, NULL, NULL)                                                                          \
    X(seccomp, 0, 0, NULL)                                                                         \
    X(landlock_restrict_self, 3, 0)                                                                \
    X(keyctl, 0, 0, 0, 0, 0)                                                                       \
    X(add_key, NULL, NULL, NULL, 0, 0)                                                             \
    X(bpf, 0, NULL, 0)                                                                             \
    X(perf_event_open, NULL, 0, -1, -1, 0)                                                         \
    X(syslog, 2, NULL, 0)                                                                          \
    X(sethostname, "x", 1)                                                                         \
    X(init_module, NULL, 0, NULL)                                                                  \
    X(kexec_load, 0, 0, NULL, 0)                                                                   \
    X(reboot, 0, 0, 0, NULL)
/* clang-format on */

#endif
