/* The parts of the native walk, and what each has for the others.

   _usage.c      what Python calls: arguments, answers, exceptions
   _threads.c    the threads of a walk, begun, awaited and stopped by the calling thread
   _sharing.c    the work of a thread: subtrees, and what threads give to each other
   _walk.c       the way down and up in one subtree, and what is counted on it
   _directory.c  a directory on that way
   _findings.c   what is told one by one: files of several names, failures, other filesystems

   Only _usage.c knows of Python. */

#ifndef ARAWN_CLI_WALK_H
#define ARAWN_CLI_WALK_H

/* As Python.h has it, so that all parts mean the same by a size and by a status. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

enum {
    MAX_OPEN = 32,    /* open directories on the way of one thread */
    LISTED = 1 << 16, /* bytes of one getdents64(2) */
};

/* Names one after the other, each with its NUL; those before `next` are done with. */
struct names {
    char *bytes;
    size_t next, end, room;
};

/* A directory on somebody's way, kept as long as anything below it can still be told of. */
struct directory {
    struct directory *parent;
    atomic_uint references;
    int descriptor; /* -1 while it is closed */
    dev_t device;
    ino_t inode;
    struct names pending; /* subdirectories that are still to be entered */
    char name[];          /* empty at the top of a subtree, whose path the caller knows */
};

struct tally {
    uint64_t apparent, allocated, files, directories; /* without files of several names */
    uint64_t largest;       /* bytes of one file, with those */
    struct timespec newest; /* mtime; nanoseconds since the epoch would not hold the years after 2262 */
    bool any;               /* whether anything was measured */
};

struct subtree {
    const char *names; /* that lead to it from the starting directory, the last its own; each with its NUL */
    size_t count;
    bool shallow;
    struct tally tally;
    size_t units; /* pieces of work on it that are begun or wait; under the lock */
};

/* A file with several names, of which so many were met. */
struct link {
    size_t subtree;
    uint64_t device, inode, met, links, apparent, allocated;
};

/* Something to tell of one path: a failed call, or a filesystem that begins there (`operation` is NULL). */
struct finding {
    size_t subtree;
    const char *operation;
    int number;
    char *path;
};

struct list {
    void *items;
    size_t count, room;
};

/* Work that was given away: names in a directory, which is open and belongs to the unit. */
struct unit {
    struct unit *next;
    size_t subtree;
    dev_t device;
    struct directory *base;
    struct names files; /* to be measured; its subdirectories are the pending ones of the base */
};

struct walk {
    int start;
    struct subtree *subtrees;
    size_t count;
    size_t open_max;
    pthread_mutex_t lock;
    pthread_cond_t work;  /* there is something to do, or nothing will be any more */
    pthread_cond_t end;   /* all is done */
    size_t next;          /* the first subtree that nobody has begun */
    struct unit *queue;
    unsigned busy;   /* threads with work in hand */
    size_t finished; /* subtrees */
    bool over;
    atomic_int wanting; /* threads that wait for work, less the units that wait for them */
    atomic_bool stop;
    atomic_int error; /* errno of what ended the walk: ENOMEM */
};

struct worker {
    struct walk *walk;
    pthread_t thread;
    size_t subtree;
    dev_t device;
    struct tally tally;
    struct directory *here, *bottom; /* where it stands, and the uppermost directory of its way */
    struct directory *open[MAX_OPEN];
    size_t first, opened; /* a ring: the open directories of the way, the uppermost first */
    const char *prefix;   /* names of the directory that holds the subtree begun last, for those beside it */
    size_t prefix_length;
    int prefix_descriptor;
    struct list links, findings;
    size_t links_enough; /* from so many on they are merged */
    char *buffer;
};

static const int DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;

static const struct tally NOTHING = {0};

static inline bool stopped(const struct worker *worker)
{
    return atomic_load_explicit(&worker->walk->stop, memory_order_relaxed);
}

static inline bool is_later(struct timespec one, struct timespec other)
{
    return one.tv_sec > other.tv_sec || (one.tv_sec == other.tv_sec && one.tv_nsec > other.tv_nsec);
}

/* Of the built module only PyInit__usage is seen, so that these names meet no others. */
#pragma GCC visibility push(hidden)

/* _threads.c */
unsigned affordable(struct walk *walk, unsigned threads);
bool prepare(struct worker *workers, unsigned count, struct walk *walk);
unsigned begin_threads(struct worker *workers, unsigned wanted);
size_t wait_a_tick(struct walk *walk, bool *over);
void halt(struct walk *walk);
void give_up(struct walk *walk, int number);
void clear(struct worker *workers, unsigned count, struct walk *walk);
struct timespec now(void);
struct timespec after_a_tick(void);

/* _sharing.c */
void *work(void *argument);
void end_walk(struct walk *walk);
struct unit *new_unit(struct worker *worker, const struct directory *in);
void drop_unit(struct unit *unit);
void hand_over(struct worker *worker, struct unit *unit);
void share_directories(struct worker *worker);

/* _walk.c */
void enter(struct worker *worker, int parent, const char *name, const char *shown);
void stand_in(struct worker *worker, struct directory *directory);
void walk_on(struct worker *worker);
void measure_entry(struct worker *worker, struct directory *at, const char *name);
void count(struct worker *worker, const struct stat *status);
void add_tally(struct tally *sum, const struct tally *part);
bool add_name(struct walk *walk, struct names *names, const char *name, size_t length);
const char *next_name(struct names *names);

/* _directory.c */
struct directory *new_directory(struct walk *walk, struct directory *parent, const char *name, int descriptor,
                                dev_t device, ino_t inode);
void close_directory(struct directory *directory);
void release(struct directory *directory);
char *path_of(const struct directory *directory, const char *name);

/* _findings.c */
void find(struct worker *worker, const char *operation, const struct directory *at, const char *name, int number);
void note_link(struct worker *worker, const struct stat *status, uint64_t allocated);
void merge(struct list *links);

#pragma GCC visibility pop

#endif
