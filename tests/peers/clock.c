/* Preloaded, it gives a program a clock that is CLOCK_AHEAD seconds ahead of the machine's. CLOCK_FILE
   names a file of two 64-bit numbers, which may change at any time: seconds that the clock is ahead, and
   seconds that have passed while nothing happened (CLOCK_MONOTONIC). */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long seconds_ahead;
static const volatile long long *jumps;

__attribute__((constructor)) static void begin(void) {
  const char *seconds = getenv("CLOCK_AHEAD"), *path = getenv("CLOCK_FILE");
  seconds_ahead = seconds ? atol(seconds) : 0;
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file >= 0) {
    void *page = mmap(0, 2 * sizeof *jumps, PROT_READ, MAP_SHARED, file, 0);
    jumps = page == MAP_FAILED ? 0 : page;
    close(file);
  }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int outcome = (int)syscall(SYS_clock_gettime, clock, now);
  if (outcome != 0)
    return outcome;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
    now->tv_sec += seconds_ahead + (jumps ? jumps[0] : 0);
  else if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME)
    now->tv_sec += jumps ? jumps[1] : 0;
  return outcome;
}

time_t time(time_t *now) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now)
    *now = precise.tv_sec;
  return precise.tv_sec;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec precise;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}
