/* Sleeping under libfaketime, which refuses a sleep until a moment of the monotonic clock when it is
   told to leave that clock alone (0.9.10: EINVAL). Python sleeps so. Loaded before it. */

#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) == 0 ? 0 : errno;
}
