/* The threads of a walk, as the calling thread has them: how many there may be, begun, awaited for a tick, stopped. */

#include "_walk.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    MAX_THREADS = 64,
    MIN_OPEN = 4,          /* with fewer, threads are given up instead */
    TICK_NSECS = 50000000, /* how often the calling thread looks for signals, or may */
    STACK = 1 << 18,
};

struct timespec now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

struct timespec after_a_tick(void)
{
    struct timespec time = now();
    time.tv_nsec += TICK_NSECS;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

/* How many threads to use: each needs some descriptors, and half of those that the process may have are left to others. */
unsigned affordable(struct walk *walk, unsigned threads)
{
    struct rlimit limit;
    size_t budget = MAX_OPEN * MAX_THREADS;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / 2 < budget)
        budget = (size_t)limit.rlim_cur / 2;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    if (threads * MIN_OPEN > budget)
        threads = (unsigned)(budget / MIN_OPEN);
    if (threads < 1)
        threads = 1;
    walk->open_max = budget / threads;
    if (walk->open_max > MAX_OPEN)
        walk->open_max = MAX_OPEN;
    if (walk->open_max < 2)
        walk->open_max = 2;
    return threads;
}

bool prepare(struct worker *workers, unsigned count, struct walk *walk)
{
    for (unsigned i = 0; i < count; i++) {
        workers[i].walk = walk;
        workers[i].tally = NOTHING;
        workers[i].prefix_descriptor = -1;
        workers[i].buffer = malloc(LISTED);
        if (!workers[i].buffer)
            return false;
    }
    return true;
}

void clear(struct worker *workers, unsigned count, struct walk *walk)
{
    for (unsigned i = 0; i < count; i++) {
        if (workers[i].walk && workers[i].prefix_descriptor >= 0)
            close(workers[i].prefix_descriptor);
        struct finding *findings = workers[i].findings.items;
        for (size_t j = 0; j < workers[i].findings.count; j++)
            free(findings[j].path);
        free(findings);
        free(workers[i].links.items);
        free(workers[i].buffer);
    }
    for (struct unit *unit = walk->queue, *next; unit; unit = next) {
        next = unit->next;
        drop_unit(unit);
    }
}

/* Signals are left to the threads of Python: a call that one interrupts, as on NFS or FUSE, would fail here. */
unsigned begin_threads(struct worker *workers, unsigned wanted)
{
    unsigned begun = 0;
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (begun < wanted && pthread_create(&workers[begun].thread, &attributes, work, &workers[begun]) == 0)
        begun++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return begun;
}

/* Waits for one tick at the most; how many subtrees are finished, and whether all is over. */
size_t wait_a_tick(struct walk *walk, bool *over)
{
    struct timespec until = after_a_tick();
    pthread_mutex_lock(&walk->lock);
    for (int waited = 0; !walk->over && waited == 0;)
        waited = pthread_cond_timedwait(&walk->end, &walk->lock, &until);
    size_t finished = walk->finished;
    *over = walk->over;
    pthread_mutex_unlock(&walk->lock);
    return finished;
}

void give_up(struct walk *walk, int number)
{
    atomic_store(&walk->error, number);
    atomic_store(&walk->stop, true);
}

void halt(struct walk *walk)
{
    atomic_store(&walk->stop, true);
    pthread_mutex_lock(&walk->lock);
    end_walk(walk);
    pthread_mutex_unlock(&walk->lock);
}
