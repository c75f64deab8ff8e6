/* Shows a process another time of day: CLOCK_SHIFT_S seconds ahead, or behind where it is negative.
 *
 * Preloaded. What waits until a time of day waits as long as it meant to: the deadline was told by the shifted clock. The
 * monotonic clock goes on as it is.
 *
 * The first time of day that is shown is told on stderr, so that a test sees that the process has asked here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>

/* Deadlines below this are of the monotonic clock, which counts from the machine's start. */
#define TIME_OF_DAY 1000000000

static time_t shift(void) {
    static time_t seconds;
    static int known;
    if (!known) {
        const char *text = getenv("CLOCK_SHIFT_S");
        seconds = text ? atol(text) : 0;
        known = 1;
    }
    return seconds;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *now) {
    static __typeof__(&clock_gettime) next;
    if (!next) next = NEXT(clock_gettime);
    int result = next(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        static atomic_flag told = ATOMIC_FLAG_INIT;
        now->tv_sec += shift();
        if (!atomic_flag_test_and_set(&told)) dprintf(2, "shown the time of day %lld\n", (long long)now->tv_sec);
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

static struct timespec unshifted(const struct timespec *until) {
    struct timespec real = *until;
    if (real.tv_sec > TIME_OF_DAY) real.tv_sec -= shift();
    return real;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static __typeof__(&pthread_cond_timedwait) next;
    /* There are two versions of it, and the oldest would be found first. */
    if (!next) next = (__typeof__(next))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!next) next = NEXT(pthread_cond_timedwait);
    struct timespec real = unshifted(until);
    return next(condition, mutex, &real);
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    static __typeof__(&cnd_timedwait) next;
    if (!next) next = NEXT(cnd_timedwait);
    struct timespec real = unshifted(until);
    return next(condition, mutex, &real);
}
