/* Counts the changes that a process makes to files below one folder, records them, and kills the
   process at one of them. Preloaded by the dynamic linker (LD_PRELOAD), so that nothing goes
   unseen: Python, C++ (torch.save) and SQLite change files through the same functions.

   A change is a call that the disk could see: a file made, emptied, written, synced, renamed,
   removed, a folder made or removed. Reading and closing are none.

   operations.py compiles this file, says what a record looks like, and calls crash_watch. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static char root[PATH_MAX];     /* changes below it count; empty: nothing is watched */
static char once[PATH_MAX];     /* file that says that a process was killed; empty: always kill */
static long count;              /* changes so far */
static long at;                 /* kill before this change; 0: never */
static int torn;                /* of a write, let the first half of the bytes through */
static int trace = -1;          /* descriptor of the record; -1: none */

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* ---- what operations.py calls */

void crash_watch(const char *folder, long kill_at, int half, const char *record, const char *marker)
{
    pthread_mutex_lock(&lock);
    snprintf(root, sizeof root, "%s", folder);
    snprintf(once, sizeof once, "%s", marker);
    count = 0;
    at = kill_at;
    torn = half;
    if (trace >= 0) close(trace);
    trace = -1;
    if (*record)
        trace = syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    pthread_mutex_unlock(&lock);
}

long crash_count(void)
{
    return count;
}

static void take(void) { pthread_mutex_lock(&lock); }
static void give(void) { pthread_mutex_unlock(&lock); }

/* A recursive mutex belongs to a thread, and the thread of a new process has another number. */
static void renew(void)
{
    pthread_mutex_t fresh = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    lock = fresh;
}

/* VISTUNE_CRASH="kill_at half folder record marker", a dash for no record and no marker: watched from
   the first instruction on. Processes that this one starts are not. */
__attribute__((constructor)) static void from_environment(void)
{
    const char *asked = getenv("VISTUNE_CRASH");
    char folder[PATH_MAX], record[PATH_MAX], marker[PATH_MAX];
    long kill_at;
    int half;
    pthread_atfork(take, give, renew);
    const char *form = "%ld %d %4095s %4095s %4095s";
    if (asked && sscanf(asked, form, &kill_at, &half, folder, record, marker) == 5) {
        unsetenv("VISTUNE_CRASH");
        crash_watch(folder, kill_at, half, *record == '-' ? "" : record, *marker == '-' ? "" : marker);
    }
}

/* ---- paths */

static int path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return 1;
}

static int absolute(int folder, const char *name, char *path)
{
    char base[PATH_MAX];
    if (!name) return 0;
    if (*name == '/') return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else if (!path_of(folder, base)) {
        return 0;
    }
    return snprintf(path, PATH_MAX, "%s/%s", base, name) < PATH_MAX;
}

static int watched(const char *path)
{
    size_t length = strlen(root);
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* True where the folder of a new name is there: otherwise the call fails, and changes nothing. */
static int has_place(const char *path)
{
    char folder[PATH_MAX];
    struct stat found;
    snprintf(folder, sizeof folder, "%s", path);
    char *last = strrchr(folder, '/');
    if (!last || last == folder) return 1;
    *last = 0;
    return !stat(folder, &found);
}

/* ---- the record, and the end */

static void put(const void *bytes, size_t length)
{
    while (length) {
        ssize_t done = syscall(SYS_write, trace, bytes, length);
        if (done <= 0) abort();
        bytes = (const char *)bytes + done;
        length -= done;
    }
}

static void record(const char *kind, const char *path, const char *other, long offset,
                   const void *bytes, size_t length)
{
    char line[3 * PATH_MAX];
    if (trace < 0) return;
    int size = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", kind, path, other, offset, length);
    put(line, size);
    put(bytes, length);
}

/* True where the process shall end at this change. */
static int due(void)
{
    count++;
    if (!at || count != at) return 0;
    if (!*once) return 1;
    return syscall(SYS_openat, AT_FDCWD, once, O_WRONLY | O_CREAT | O_EXCL, 0644) >= 0;
}

static void end(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static void change(const char *kind, const char *path, const char *other)
{
    if (due()) end();
    record(kind, path, other, 0, "", 0);
}

/* ---- files opened */

static void before_open(int folder, const char *name, int flags)
{
    char path[PATH_MAX];
    struct stat found;
    if (!(flags & (O_CREAT | O_TRUNC)) || !absolute(folder, name, path) || !watched(path)) return;
    int is_there = !stat(path, &found);
    if (!is_there && (flags & O_CREAT) && has_place(path)) change("create", path, "");
    if (is_there && (flags & O_TRUNC) && found.st_size) change("truncate", path, "");
}

#define OPEN(name, folder, ...) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    } \
    REAL(name); \
    pthread_mutex_lock(&lock); \
    before_open(folder, path, flags); \
    int fd = real(__VA_ARGS__, flags, mode); \
    int why = errno; \
    pthread_mutex_unlock(&lock); \
    errno = why; \
    return fd

int open(const char *path, int flags, ...) { OPEN(open, AT_FDCWD, path); }
int open64(const char *path, int flags, ...) { OPEN(open64, AT_FDCWD, path); }
int openat(int folder, const char *path, int flags, ...) { OPEN(openat, folder, folder, path); }
int openat64(int folder, const char *path, int flags, ...) { OPEN(openat64, folder, folder, path); }

static int flags_of(const char *mode)
{
    if (*mode == 'w') return O_CREAT | O_TRUNC;
    return *mode == 'a' ? O_CREAT : 0;
}

#define FOPEN(name) \
    REAL(name); \
    pthread_mutex_lock(&lock); \
    before_open(AT_FDCWD, path, flags_of(mode)); \
    FILE *file = real(path, mode); \
    pthread_mutex_unlock(&lock); \
    return file

FILE *fopen(const char *path, const char *mode) { FOPEN(fopen); }
FILE *fopen64(const char *path, const char *mode) { FOPEN(fopen64); }

/* ---- bytes written */

/* -1: write all; otherwise the number of bytes after which the process ends. */
static long before_write(int fd, const void *bytes, size_t length, off_t offset)
{
    char path[PATH_MAX];
    struct stat found;
    if (!*root || !length || !path_of(fd, path) || !watched(path)) return -1;
    if (stat(path, &found) || !S_ISREG(found.st_mode)) return -1; /* removed, or a pipe */
    if (offset < 0) {
        int flags = fcntl(fd, F_GETFL);
        offset = flags & O_APPEND ? found.st_size : lseek(fd, 0, SEEK_CUR);
    }
    if (due()) {
        if (!torn) end();
        return length / 2;
    }
    record("write", path, "", offset, bytes, length);
    return -1;
}

#define WRITE(name, offset, ...) \
    REAL(name); \
    pthread_mutex_lock(&lock); \
    long half = before_write(fd, bytes, length, offset); \
    if (half >= 0) length = half; \
    ssize_t done = real(__VA_ARGS__); \
    int why = errno; \
    if (half >= 0) end(); \
    pthread_mutex_unlock(&lock); \
    errno = why; \
    return done

ssize_t write(int fd, const void *bytes, size_t length)
{
    WRITE(write, -1, fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
    WRITE(pwrite, offset, fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset)
{
    WRITE(pwrite64, offset, fd, bytes, length, offset);
}

/* As single writes, which is what the disk may make of it. */
ssize_t writev(int fd, const struct iovec *parts, int number)
{
    char path[PATH_MAX];
    REAL(writev);
    if (!*root || !path_of(fd, path) || !watched(path)) return real(fd, parts, number);
    ssize_t all = 0;
    for (int i = 0; i < number; i++) {
        ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return all ? all : done;
        all += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return all;
}

/* Callers copy by read and write where these fail. */
#define REFUSED(name, ...) \
    char path[PATH_MAX]; \
    REAL(name); \
    if (*root && path_of(to, path) && watched(path)) { errno = ENOSYS; return -1; } \
    return real(__VA_ARGS__)

ssize_t sendfile(int to, int from, off_t *offset, size_t length)
{
    REFUSED(sendfile, to, from, offset, length);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t length)
{
    REFUSED(sendfile64, to, from, offset, length);
}

ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t length, unsigned flags)
{
    REFUSED(copy_file_range, from, a, to, b, length, flags);
}

/* ---- changes by descriptor, and by one or two names */

static void by_descriptor(const char *kind, int fd, long length)
{
    char path[PATH_MAX];
    struct stat found;
    if (!*root || !path_of(fd, path) || !watched(path) || stat(path, &found)) return;
    if (due()) end();
    record(kind, path, "", length, "", 0);
}

static void by_name(const char *kind, int folder, const char *name, int there)
{
    char path[PATH_MAX];
    struct stat found;
    if (!*root || !absolute(folder, name, path) || !watched(path)) return;
    if (lstat(path, &found) == (there ? 0 : -1) && has_place(path)) change(kind, path, "");
}

static void by_names(const char *kind, int from, const char *old, int to, const char *new)
{
    char path[PATH_MAX], other[PATH_MAX];
    struct stat found;
    if (!*root || !absolute(from, old, path) || !absolute(to, new, other)) return;
    if ((watched(path) || watched(other)) && !lstat(path, &found)) change(kind, path, other);
}

#define CHANGE(name, before, ...) \
    REAL(name); \
    pthread_mutex_lock(&lock); \
    before; \
    int done = real(__VA_ARGS__); \
    int why = errno; \
    pthread_mutex_unlock(&lock); \
    errno = why; \
    return done

int fsync(int fd) { CHANGE(fsync, by_descriptor("sync", fd, 0), fd); }
int fdatasync(int fd) { CHANGE(fdatasync, by_descriptor("sync", fd, 0), fd); }
int ftruncate(int fd, off_t n) { CHANGE(ftruncate, by_descriptor("truncate", fd, n), fd, n); }
int ftruncate64(int fd, off64_t n) { CHANGE(ftruncate64, by_descriptor("truncate", fd, n), fd, n); }

int unlink(const char *path)
{
    CHANGE(unlink, by_name("unlink", AT_FDCWD, path, 1), path);
}

int remove(const char *path)
{
    CHANGE(remove, by_name("unlink", AT_FDCWD, path, 1), path);
}

int unlinkat(int folder, const char *path, int flags)
{
    const char *kind = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    CHANGE(unlinkat, by_name(kind, folder, path, 1), folder, path, flags);
}

int rmdir(const char *path)
{
    CHANGE(rmdir, by_name("rmdir", AT_FDCWD, path, 1), path);
}

int mkdir(const char *path, mode_t mode)
{
    CHANGE(mkdir, by_name("mkdir", AT_FDCWD, path, 0), path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    CHANGE(mkdirat, by_name("mkdir", folder, path, 0), folder, path, mode);
}

int rename(const char *old, const char *new)
{
    CHANGE(rename, by_names("rename", AT_FDCWD, old, AT_FDCWD, new), old, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
    CHANGE(renameat, by_names("rename", from, old, to, new), from, old, to, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    CHANGE(renameat2, by_names("rename", from, old, to, new), from, old, to, new, flags);
}

int link(const char *old, const char *new)
{
    CHANGE(link, by_names("link", AT_FDCWD, old, AT_FDCWD, new), old, new);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    CHANGE(linkat, by_names("link", from, old, to, new), from, old, to, new, flags);
}

static void by_target(const char *target, const char *name)
{
    char path[PATH_MAX];
    if (*root && absolute(AT_FDCWD, name, path) && watched(path)) change("symlink", path, target);
}

int symlink(const char *target, const char *path)
{
    CHANGE(symlink, by_target(target, path), target, path);
}
