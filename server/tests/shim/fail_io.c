/* Fails one I/O call of a process, once. Environment:
 *   FAIL_DIR   only files below this directory count
 *   FAIL_CALL  write | pwrite64 | pread64 | fsync | fdatasync | ftruncate64, or "nosync": every sync does nothing
 *   FAIL_AT    the N-th such call fails (from 1)
 *   FAIL_MARK  file made when it has failed
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long calls;

static int below_dir(int fd) {
    const char *dir = getenv("FAIL_DIR");
    char link[64], path[4096];
    if (!dir) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

static int fails(const char *name, int fd) {
    const char *call = getenv("FAIL_CALL"), *at = getenv("FAIL_AT");
    if (!call || !at || strcmp(call, name) || !below_dir(fd)) return 0;
    if (atomic_fetch_add(&calls, 1) + 1 != atol(at)) return 0;
    const char *mark = getenv("FAIL_MARK");
    if (mark) {
        long made = syscall(SYS_openat, AT_FDCWD, mark, O_CREAT | O_WRONLY, 0600);
        if (made >= 0) syscall(SYS_close, made);
    }
    errno = EIO;
    return 1;
}

static int nosync(int fd) {
    const char *call = getenv("FAIL_CALL");
    return call && !strcmp(call, "nosync") && below_dir(fd);
}

#define REAL(type, name, ...) type (*real)(__VA_ARGS__) = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t);
    return fails("write", fd) ? -1 : real(fd, data, n);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return fails("pwrite64", fd) ? -1 : real(fd, data, n, at);
}
ssize_t pread64(int fd, void *data, size_t n, off64_t at) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    return fails("pread64", fd) ? -1 : real(fd, data, n, at);
}
int fsync(int fd) {
    REAL(int, fsync, int);
    if (nosync(fd)) return 0;
    return fails("fsync", fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    if (nosync(fd)) return 0;
    return fails("fdatasync", fd) ? -1 : real(fd);
}
int ftruncate64(int fd, off64_t n) {
    REAL(int, ftruncate64, int, off64_t);
    return fails("ftruncate64", fd) ? -1 : real(fd, n);
}
