/* Walk directory trees with several threads, and sum up their usage or delete them.

   _measure.c is the Python interface, and the only file that includes Python.h. */

#ifndef ARAWN_CLI_WALK_H
#define ARAWN_CLI_WALK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum {
    PATH_BYTES = 512,  /* of a path in a result, with its NUL; a longer one is cut */
    FINDINGS_MAX = 16, /* findings of each kind that are listed for a subtree */
    LISTED_MAX = 1000, /* findings that are listed for all subtrees; after that one of each kind and subtree */
};

enum kind {
    NO_DESCRIPTOR, /* the tree needs more of them */
    OPEN_FAILED,
    LIST_FAILED,
    STAT_FAILED,
    MOUNTED, /* the mount point of another filesystem */
    FOREIGN, /* a directory of another account, or an entry of a sticky one, that the account cannot change */
    FLAGGED, /* immutable or append-only */
    LINKED,  /* a file of another account with several names */
    KINDS,
};

/* The account that would remove the trees. */
struct account {
    uint32_t user;
    int acts_as_owner;  /* CAP_FOWNER: it may remove files of others from a sticky directory */
    uint32_t unmapped;  /* except to files of this id, which the kernel shows for ids that the user namespace does not map */
};

struct usage {
    unsigned long long apparent, allocated, files, directories; /* without files with several names */
    unsigned long long largest;                                 /* st_size of the largest file */
    struct statx_timestamp newest;                              /* newest mtime; 64-bit nanoseconds end in the year 2262 */
    /* The entry with the newest mtime, below the subtree; of several, the first in the order of bytes. NULL: nothing was measured. */
    char *newest_path;
};

/* A file or directory to measure, or a directory to delete. */
struct subtree {
    const char *names; /* path from the start directory: `count` names, each with its NUL */
    size_t count;
    bool shallow; /* leave out everything below the directory */
    dev_t device; /* set before a directory is entered */
    /* Guarded by the lock: */
    struct usage usage;
    size_t units;                    /* units of work that are queued or in progress */
    unsigned long long found[KINDS]; /* findings of each kind, listed or not */
};

/* A file with `names` names, of which `found` lie in the subtree. */
struct hard_link {
    unsigned long long subtree, device, inode, apparent, allocated, found, names;
};

struct finding {
    size_t subtree;
    enum kind kind;
    uint32_t number; /* errno of a failed call; else the owner of the entry */
    char *path;      /* below the subtree */
};

/* A growing array. */
struct list {
    void *items;
    size_t count, room;
};

struct walk {
    int start; /* descriptor of the start directory */
    struct account account;
    bool deletes; /* instead of measuring */
    struct subtree *subtrees;
    size_t count;
    struct worker *workers;
    unsigned threads;

    pthread_mutex_t lock;
    pthread_cond_t work; /* a unit was queued, or the walk is over */
    pthread_cond_t over;
    size_t begun, finished; /* subtrees */
    struct unit *queue;
    /* These are written under the lock. Threads read them without it, as a hint. */
    atomic_size_t queued, idle; /* units in the queue; threads that wait for one */
    atomic_bool stop;
    atomic_bool no_memory; /* memory ran out, which also stopped the walk */

    struct list findings; /* struct finding */
    struct list links;    /* struct hard_link, one per subtree and file; set by finish_walk() */
};

void start_walk(struct walk *walk, unsigned threads);
size_t wait_for_progress(struct walk *walk, bool *over);
void finish_walk(struct walk *walk);
void free_results(struct walk *walk);

#endif
