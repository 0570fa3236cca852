/* Measures subtrees through directory descriptors, and unlinks files of one, with the GIL released and on every core.

   The same walk as the Python twin in walk.py, and the same answers: no recursion, no link followed, no other
   filesystem entered, a bounded number of descriptors whatever the depth, failures as values.

   Each thread walks down on its own. Its way up leads through the `parent` pointers; of the directories on it the
   MAX_OPEN deepest are open, and one further up is opened again through "..", where device and inode number
   prove that it is the same. A thread without work is given half of the shallowest directories that another has still to
   enter, or a stretch of the files of one large directory. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_OPEN = 32,         /* open directories on the way of one thread */
    MIN_OPEN = 4,          /* with fewer, threads are given up instead */
    MAX_THREADS = 64,
    LISTED = 1 << 16,      /* bytes of one getdents64(2) */
    MERGED = 1000,         /* links to files of several names, at the least, between two searches for those to the same file */
    SHARED_FILES = 64,     /* names that are worth a second thread */
    BLOCK = 512,           /* the unit of st_blocks, whatever the filesystem's block size (stat(2)) */
    TICK_NSECS = 50000000, /* how often the calling thread looks for signals, or may */
    STACK = 1 << 18,
};

/* The record of getdents64(2). */
struct record {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
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

static void give_up(struct walk *walk, int number)
{
    atomic_store(&walk->error, number);
    atomic_store(&walk->stop, true);
}

static bool stopped(const struct worker *worker)
{
    return atomic_load_explicit(&worker->walk->stop, memory_order_relaxed);
}

/* ---- names and lists ---- */

static bool add_name(struct walk *walk, struct names *names, const char *name, size_t length)
{
    if (names->end + length > names->room) {
        size_t room = names->room ? names->room * 2 : 256;
        while (room < names->end + length)
            room *= 2;
        char *bytes = realloc(names->bytes, room);
        if (!bytes) {
            give_up(walk, ENOMEM);
            return false;
        }
        names->bytes = bytes;
        names->room = room;
    }
    memcpy(names->bytes + names->end, name, length);
    names->end += length;
    return true;
}

static const char *next_name(struct names *names)
{
    if (names->next == names->end)
        return NULL;
    const char *name = names->bytes + names->next;
    names->next += strlen(name) + 1;
    return name;
}

/* Moves the second half of the names to `given`, and of two or more not the first: whoever gives keeps something to do,
   or the same names would go round for ever. */
static bool split(struct walk *walk, struct names *names, struct names *given)
{
    size_t cut = names->next + (names->end - names->next) / 2;
    while (names->bytes[cut - 1])
        cut++;
    if (cut == names->end)
        for (cut--; cut > names->next && names->bytes[cut - 1];)
            cut--;
    if (!add_name(walk, given, names->bytes + cut, names->end - cut))
        return false;
    names->end = cut;
    return true;
}

static void *add_item(struct walk *walk, struct list *list, size_t size)
{
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        void *items = realloc(list->items, room * size);
        if (!items) {
            give_up(walk, ENOMEM);
            return NULL;
        }
        list->items = items;
        list->room = room;
    }
    return (char *)list->items + size * list->count++;
}

/* ---- directories ---- */

static struct directory *new_directory(struct walk *walk, struct directory *parent, const char *name, int descriptor,
                                       dev_t device, ino_t inode)
{
    size_t length = strlen(name) + 1;
    struct directory *directory = calloc(1, sizeof *directory + length);
    if (!directory) {
        give_up(walk, ENOMEM);
        return NULL;
    }
    atomic_init(&directory->references, 1);
    if (parent)
        atomic_fetch_add(&parent->references, 1);
    directory->parent = parent;
    directory->descriptor = descriptor;
    directory->device = device;
    directory->inode = inode;
    memcpy(directory->name, name, length);
    return directory;
}

static void close_directory(struct directory *directory)
{
    if (directory->descriptor >= 0)
        close(directory->descriptor);
    directory->descriptor = -1;
}

static void release(struct directory *directory)
{
    while (directory && atomic_fetch_sub(&directory->references, 1) == 1) {
        struct directory *parent = directory->parent;
        close_directory(directory);
        free(directory->pending.bytes);
        free(directory);
        directory = parent;
    }
}

/* The path of the entry `name` of a directory, or of itself, below the top of its subtree. */
static char *path_of(const struct directory *directory, const char *name)
{
    size_t length = name ? strlen(name) + 1 : 1;
    for (const struct directory *at = directory; at && *at->name; at = at->parent)
        length += strlen(at->name) + 1;
    char *path = malloc(length);
    if (!path)
        return NULL;
    char *end = path + length - 1;
    *end = '\0';
    if (name) {
        end -= strlen(name);
        memcpy(end, name, strlen(name));
    }
    for (const struct directory *at = directory; at && *at->name; at = at->parent) {
        if (*end)
            *--end = '/';
        end -= strlen(at->name);
        memcpy(end, at->name, strlen(at->name));
    }
    memmove(path, end, strlen(end) + 1);
    return path;
}

/* ---- what is found ---- */

static void find(struct worker *worker, const char *operation, const struct directory *at, const char *name, int number)
{
    if (number == ENOENT)
        return; /* removed by somebody else meanwhile */
    struct finding *finding = add_item(worker->walk, &worker->findings, sizeof *finding);
    if (!finding)
        return;
    *finding = (struct finding){worker->subtree, operation, number, path_of(at, name)};
    if (!finding->path) {
        worker->findings.count--;
        give_up(worker->walk, ENOMEM);
    }
}

static bool is_later(struct timespec one, struct timespec other)
{
    return one.tv_sec > other.tv_sec || (one.tv_sec == other.tv_sec && one.tv_nsec > other.tv_nsec);
}

static struct timespec now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

static struct timespec after_a_tick(void)
{
    struct timespec time = now();
    time.tv_nsec += TICK_NSECS;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

static void note_time(struct tally *tally, struct timespec time)
{
    if (!tally->any || is_later(time, tally->newest))
        tally->newest = time;
    tally->any = true;
}

static void note_size(struct tally *tally, uint64_t size)
{
    if (size > tally->largest)
        tally->largest = size;
}

/* Sparse files may claim more than 64 bits hold together; less than they claim is never said. */
static void add(uint64_t *sum, uint64_t more)
{
    *sum = *sum > UINT64_MAX - more ? UINT64_MAX : *sum + more;
}

static int order_of(uint64_t one, uint64_t two)
{
    return (one > two) - (one < two);
}

static int by_file(const void *first, const void *second)
{
    const struct link *one = first, *two = second;
    int order = order_of(one->subtree, two->subtree);
    if (!order)
        order = order_of(one->device, two->device);
    return order ? order : order_of(one->inode, two->inode);
}

/* Makes one of the links to the same file. */
static void merge(struct list *links)
{
    struct link *items = links->items;
    size_t kept = 0;
    if (!links->count)
        return;
    qsort(items, links->count, sizeof *items, by_file);
    for (size_t i = 1; i < links->count; i++) {
        if (by_file(&items[kept], &items[i]) == 0)
            items[kept].met += items[i].met;
        else
            items[++kept] = items[i];
    }
    links->count = kept + 1;
}

static void note_link(struct worker *worker, const struct stat *status, uint64_t allocated)
{
    if (worker->links.count >= worker->links_enough) {
        merge(&worker->links);
        worker->links_enough = MERGED + 2 * worker->links.count;
    }
    struct link *link = add_item(worker->walk, &worker->links, sizeof *link);
    if (link)
        *link = (struct link){worker->subtree,  status->st_dev,           status->st_ino, 1,
                              status->st_nlink, (uint64_t)status->st_size, allocated};
}

static void count(struct worker *worker, const struct stat *status)
{
    struct tally *tally = &worker->tally;
    uint64_t allocated = (uint64_t)status->st_blocks * BLOCK;
    note_time(tally, status->st_mtim);
    if (S_ISREG(status->st_mode)) {
        note_size(tally, (uint64_t)status->st_size);
        if (status->st_nlink > 1) {
            note_link(worker, status, allocated);
            return;
        }
        tally->files++;
        add(&tally->apparent, (uint64_t)status->st_size);
    } else if (S_ISDIR(status->st_mode)) {
        tally->directories++;
    }
    add(&tally->allocated, allocated);
}

/* Counts the entry of an open directory, unless it is a directory, which is left to be entered. */
static void measure_entry(struct worker *worker, struct directory *at, const char *name)
{
    struct stat status;
    if (fstatat(at->descriptor, name, &status, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
        find(worker, "stat", at, name, errno);
    else if (S_ISDIR(status.st_mode))
        add_name(worker->walk, &at->pending, name, strlen(name) + 1);
    else
        count(worker, &status);
}

/* ---- the way down and up ---- */

static void remember_open(struct worker *worker, struct directory *directory)
{
    worker->open[(worker->first + worker->opened++) % MAX_OPEN] = directory;
}

static void close_uppermost(struct worker *worker)
{
    close_directory(worker->open[worker->first]);
    worker->first = (worker->first + 1) % MAX_OPEN;
    worker->opened--;
}

static int open_directory(struct worker *worker, int parent, const char *name)
{
    int descriptor = openat(parent, name, DIRECTORY);
    if (descriptor < 0 && errno == EMFILE && worker->opened > 1) {
        while (worker->opened > 1)
            close_uppermost(worker);
        descriptor = openat(parent, name, DIRECTORY);
    }
    return descriptor;
}

static void stand_in(struct worker *worker, struct directory *directory)
{
    if (!worker->here)
        worker->bottom = directory;
    worker->here = directory;
    if (worker->opened == worker->walk->open_max)
        close_uppermost(worker);
    remember_open(worker, directory);
}

static void list_here(struct worker *worker);

/* Goes down into the directory `name` of the open directory `parent`; `shown` names it in paths. */
static void enter(struct worker *worker, int parent, const char *name, const char *shown)
{
    struct stat status;
    int descriptor = open_directory(worker, parent, name);
    if (descriptor < 0 || fstat(descriptor, &status) < 0) {
        find(worker, "openat", worker->here, *shown ? shown : NULL, errno);
        if (descriptor >= 0)
            close(descriptor);
        return;
    }
    if (status.st_dev != worker->device) {
        find(worker, NULL, worker->here, *shown ? shown : NULL, 0);
        close(descriptor);
        return;
    }
    struct directory *directory = new_directory(worker->walk, worker->here, shown, descriptor, status.st_dev, status.st_ino);
    if (!directory) {
        close(descriptor);
        return;
    }
    stand_in(worker, directory);
    count(worker, &status);
    list_here(worker);
}

/* Leaves a way before its end: what is still open on it is closed. */
static void abandon(struct worker *worker)
{
    for (struct directory *left = worker->here, *above; left; left = above) {
        above = left == worker->bottom ? NULL : left->parent;
        close_directory(left);
        release(left);
    }
    worker->opened = 0;
    worker->here = NULL;
}

static bool open_again(struct worker *worker, struct directory *above, const struct directory *below)
{
    struct stat status;
    int descriptor = openat(below->descriptor, "..", DIRECTORY);
    if (descriptor >= 0 && fstat(descriptor, &status) == 0) {
        if (status.st_dev == above->device && status.st_ino == above->inode) {
            above->descriptor = descriptor;
            return true;
        }
        errno = ESTALE; /* somebody moves the tree while it is walked */
    }
    /* There is nothing above what was moved out of a bind mount. */
    find(worker, "openat", below, "..", errno == ENOENT ? ESTALE : errno);
    if (descriptor >= 0)
        close(descriptor);
    return false;
}

static void leave(struct worker *worker)
{
    struct directory *left = worker->here;
    struct directory *above = left == worker->bottom ? NULL : left->parent;
    bool reopened = above && above->descriptor < 0;
    if (reopened && !open_again(worker, above, left)) {
        abandon(worker);
        return;
    }
    worker->opened--;
    close_directory(left);
    if (reopened)
        remember_open(worker, above);
    worker->here = above;
    release(left);
}

/* ---- sharing work ---- */

static bool is_wanted(const struct worker *worker)
{
    return atomic_load_explicit(&worker->walk->wanting, memory_order_relaxed) > 0;
}

/* A unit of work in a directory, without names yet; NULL when descriptors or memory do not suffice. */
static struct unit *new_unit(struct worker *worker, const struct directory *in)
{
    int descriptor = fcntl(in->descriptor, F_DUPFD_CLOEXEC, 0);
    if (descriptor < 0)
        return NULL;
    struct unit *unit = calloc(1, sizeof *unit);
    struct directory *base =
        unit ? new_directory(worker->walk, in->parent, in->name, descriptor, in->device, in->inode) : NULL;
    if (!base) {
        close(descriptor);
        free(unit);
        return NULL;
    }
    unit->subtree = worker->subtree;
    unit->device = worker->device;
    unit->base = base;
    return unit;
}

static void drop_unit(struct unit *unit)
{
    release(unit->base);
    free(unit->files.bytes);
    free(unit);
}

static void hand_over(struct worker *worker, struct unit *unit)
{
    struct walk *walk = worker->walk;
    pthread_mutex_lock(&walk->lock);
    unit->next = walk->queue;
    walk->queue = unit;
    walk->subtrees[unit->subtree].units++;
    atomic_fetch_sub(&walk->wanting, 1);
    pthread_cond_signal(&walk->work);
    pthread_mutex_unlock(&walk->lock);
}

/* Gives half of the shallowest directories that are still to be entered to a thread without work. */
static void share_directories(struct worker *worker)
{
    for (size_t i = 0; i < worker->opened; i++) {
        struct directory *at = worker->open[(worker->first + i) % MAX_OPEN];
        const struct names *pending = &at->pending;
        if (pending->next == pending->end)
            continue;
        if (at == worker->here && pending->next + strlen(pending->bytes + pending->next) + 1 == pending->end)
            return; /* one is left, and it is this thread's next step */
        struct unit *unit = new_unit(worker, at);
        if (!unit)
            return;
        if (split(worker->walk, &at->pending, &unit->base->pending))
            hand_over(worker, unit);
        else
            drop_unit(unit);
        return;
    }
}

static bool is_self_or_parent(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* Takes up one buffer of a listing: keeps subdirectories, and measures the rest or has it measured. */
static void take_up(struct worker *worker, struct directory *at, size_t filled)
{
    struct unit *unit = NULL;
    size_t names = 0;
    for (size_t i = 0; i < filled;) {
        const struct record *record = (const struct record *)(worker->buffer + i);
        i += record->length;
        if (record->type == DT_DIR && !is_self_or_parent(record->name))
            add_name(worker->walk, &at->pending, record->name, strlen(record->name) + 1);
        names += record->type != DT_DIR;
    }
    if (names >= SHARED_FILES && is_wanted(worker))
        unit = new_unit(worker, at);
    for (size_t i = 0; i < filled && !stopped(worker);) {
        const struct record *record = (const struct record *)(worker->buffer + i);
        i += record->length;
        if (record->type == DT_DIR || is_self_or_parent(record->name))
            continue;
        if (unit)
            add_name(worker->walk, &unit->files, record->name, strlen(record->name) + 1);
        else
            measure_entry(worker, at, record->name);
    }
    if (unit)
        hand_over(worker, unit);
}

static void list_here(struct worker *worker)
{
    struct directory *at = worker->here;
    while (!stopped(worker)) {
        long filled = syscall(SYS_getdents64, at->descriptor, worker->buffer, (size_t)LISTED);
        if (filled < 0)
            find(worker, "getdents64", at, NULL, errno);
        if (filled <= 0)
            return;
        take_up(worker, at, (size_t)filled);
    }
}

static void walk_on(struct worker *worker)
{
    while (worker->here) {
        if (stopped(worker)) {
            abandon(worker);
            return;
        }
        if (is_wanted(worker))
            share_directories(worker);
        const char *name = next_name(&worker->here->pending);
        if (name)
            enter(worker, worker->here->descriptor, name, name);
        else
            leave(worker);
    }
}

/* ---- subtrees and units ---- */

/* A descriptor of the directory that holds a subtree, kept for the subtrees beside it; -1 with errno. */
static int holder_of(struct worker *worker, const struct subtree *subtree, const char **own)
{
    const char *name = subtree->names;
    for (size_t i = 1; i < subtree->count; i++)
        name += strlen(name) + 1;
    *own = name;
    size_t length = (size_t)(name - subtree->names);
    if (!length)
        return worker->walk->start;
    if (worker->prefix_descriptor >= 0 && worker->prefix_length == length && !memcmp(worker->prefix, subtree->names, length))
        return worker->prefix_descriptor;
    if (worker->prefix_descriptor >= 0)
        close(worker->prefix_descriptor);
    worker->prefix_descriptor = -1;
    int descriptor = worker->walk->start;
    for (name = subtree->names; name != *own; name += strlen(name) + 1) {
        int below = openat(descriptor, name, DIRECTORY);
        int number = errno;
        if (descriptor != worker->walk->start)
            close(descriptor);
        if (below < 0) {
            errno = number;
            return -1;
        }
        descriptor = below;
    }
    worker->prefix = subtree->names;
    worker->prefix_length = length;
    return worker->prefix_descriptor = descriptor;
}

static void begin(struct worker *worker, size_t index)
{
    const struct subtree *subtree = &worker->walk->subtrees[index];
    const char *name = NULL;
    struct stat top;
    worker->subtree = index;
    int holder = holder_of(worker, subtree, &name);
    if (holder < 0) {
        find(worker, "openat", NULL, NULL, errno);
        return;
    }
    if (fstatat(holder, name, &top, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) {
        find(worker, "stat", NULL, NULL, errno);
        return;
    }
    if (subtree->shallow || !S_ISDIR(top.st_mode)) {
        count(worker, &top);
        return;
    }
    worker->device = top.st_dev;
    enter(worker, holder, name, "");
    walk_on(worker);
}

static void take_over(struct worker *worker, struct unit *unit)
{
    worker->subtree = unit->subtree;
    worker->device = unit->device;
    struct directory *base = unit->base;
    stand_in(worker, base);
    const char *name;
    while (!stopped(worker) && (name = next_name(&unit->files)))
        measure_entry(worker, base, name);
    free(unit->files.bytes);
    free(unit);
    walk_on(worker);
}

static void add_tally(struct tally *sum, const struct tally *part)
{
    add(&sum->apparent, part->apparent);
    add(&sum->allocated, part->allocated);
    sum->files += part->files;
    sum->directories += part->directories;
    note_size(sum, part->largest);
    if (part->any)
        note_time(sum, part->newest);
}

/* Books what was measured of a subtree, under the lock. */
static void book(struct worker *worker)
{
    struct subtree *subtree = &worker->walk->subtrees[worker->subtree];
    add_tally(&subtree->tally, &worker->tally);
    worker->tally = NOTHING;
    worker->walk->finished += --subtree->units == 0;
}

/* Waits for work, under the lock; false when there will be none any more. */
static bool await_work(struct walk *walk)
{
    if (walk->over)
        return false;
    if (walk->busy == 0) {
        walk->over = true;
        return false;
    }
    atomic_fetch_add(&walk->wanting, 1);
    while (!walk->queue && !walk->over)
        pthread_cond_wait(&walk->work, &walk->lock);
    atomic_fetch_sub(&walk->wanting, 1);
    return !walk->over;
}

/* Under the lock. */
static void end(struct walk *walk)
{
    walk->over = true;
    pthread_cond_broadcast(&walk->work);
    pthread_cond_signal(&walk->end);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct walk *walk = worker->walk;
    pthread_mutex_lock(&walk->lock);
    while (!atomic_load(&walk->stop)) {
        struct unit *unit = walk->queue;
        size_t index = walk->next;
        if (unit) {
            walk->queue = unit->next;
            atomic_fetch_add(&walk->wanting, 1);
        } else if (index < walk->count) {
            walk->next++;
            walk->subtrees[index].units = 1;
        } else if (await_work(walk)) {
            continue;
        } else {
            break;
        }
        walk->busy++;
        pthread_mutex_unlock(&walk->lock);
        if (unit)
            take_over(worker, unit);
        else
            begin(worker, index);
        pthread_mutex_lock(&walk->lock);
        book(worker);
        walk->busy--;
    }
    end(walk);
    pthread_mutex_unlock(&walk->lock);
    return NULL;
}

/* ---- the calling thread ---- */

/* Signals are left to the threads of Python: a call that one interrupts, as on NFS or FUSE, would fail here. */
static unsigned begin_threads(struct worker *workers, unsigned wanted)
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
static size_t wait_a_tick(struct walk *walk, bool *over)
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

/* Tells the caller how far the walk is until it is over; false with an exception set when the caller ends it. */
static bool attend(struct walk *walk, PyObject *tick)
{
    size_t told = 0;
    for (bool over = false; !over;) {
        size_t finished;
        Py_BEGIN_ALLOW_THREADS;
        finished = wait_a_tick(walk, &over);
        Py_END_ALLOW_THREADS;
        if (PyErr_CheckSignals() < 0)
            return false;
        PyObject *answer = PyObject_CallFunction(tick, "n", (Py_ssize_t)(finished - told));
        if (!answer)
            return false;
        Py_DECREF(answer);
        told = finished;
    }
    return true;
}

/* How many threads to use: each needs some descriptors, and half of those that the process may have are left to others. */
static unsigned affordable(struct walk *walk, unsigned threads)
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

static bool prepare(struct worker *workers, unsigned count, struct walk *walk)
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

static void clear(struct worker *workers, unsigned count, struct walk *walk)
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

static void halt(struct walk *walk)
{
    atomic_store(&walk->stop, true);
    pthread_mutex_lock(&walk->lock);
    end(walk);
    pthread_mutex_unlock(&walk->lock);
}

/* Walks with the GIL released where nothing of Python is touched; false with an exception set. */
static bool run(struct walk *walk, struct worker *workers, unsigned threads, PyObject *tick)
{
    unsigned begun = begin_threads(workers, threads);
    bool fine = true;
    if (begun) {
        fine = attend(walk, tick);
        Py_BEGIN_ALLOW_THREADS;
        if (!fine)
            halt(walk);
        for (unsigned i = 0; i < begun; i++)
            pthread_join(workers[i].thread, NULL);
        Py_END_ALLOW_THREADS;
    } else { /* no thread is to be had, under a limit on tasks */
        Py_BEGIN_ALLOW_THREADS;
        work(&workers[0]);
        Py_END_ALLOW_THREADS;
        fine = attend(walk, tick);
    }
    if (fine && atomic_load(&walk->error)) {
        PyErr_NoMemory();
        return false;
    }
    return fine;
}

/* ---- values for Python ---- */

static bool append(PyObject *list, PyObject *item)
{
    bool fine = item && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return fine;
}

static PyObject *tuple_of(const struct tally *tally)
{
    PyObject *newest = Py_NewRef(Py_None);
    if (tally->any) {
        Py_DECREF(newest);
        newest = Py_BuildValue("(LL)", (long long)tally->newest.tv_sec, (long long)tally->newest.tv_nsec);
        if (!newest)
            return NULL;
    }
    return Py_BuildValue("((KKKKKN)[][][])", (unsigned long long)tally->apparent, (unsigned long long)tally->allocated,
                         (unsigned long long)tally->files, (unsigned long long)tally->directories,
                         (unsigned long long)tally->largest, newest);
}

static bool add_findings(PyObject *answers, const struct list *findings)
{
    const struct finding *items = findings->items;
    for (size_t i = 0; i < findings->count; i++) {
        PyObject *answer = PyList_GetItem(answers, (Py_ssize_t)items[i].subtree);
        const char *operation = items[i].operation;
        PyObject *item =
            operation ? Py_BuildValue("(syi)", operation, items[i].path, items[i].number) : Py_BuildValue("y", items[i].path);
        if (!append(PyTuple_GetItem(answer, operation ? 2 : 3), item))
            return false;
    }
    return true;
}

static bool add_links(PyObject *answers, const struct list *links)
{
    const struct link *items = links->items;
    for (size_t i = 0; i < links->count; i++) {
        PyObject *answer = PyList_GetItem(answers, (Py_ssize_t)items[i].subtree);
        PyObject *item = Py_BuildValue("(KKKKKK)", (unsigned long long)items[i].device, (unsigned long long)items[i].inode,
                                       (unsigned long long)items[i].apparent, (unsigned long long)items[i].allocated,
                                       (unsigned long long)items[i].met, (unsigned long long)items[i].links);
        if (!append(PyTuple_GetItem(answer, 1), item))
            return false;
    }
    return true;
}

static PyObject *answers_of(const struct walk *walk, struct worker *workers, unsigned threads)
{
    PyObject *answers = PyList_New(0);
    bool fine = answers != NULL;
    for (size_t i = 0; fine && i < walk->count; i++)
        fine = append(answers, tuple_of(&walk->subtrees[i].tally));
    for (unsigned i = 0; fine && i < threads; i++) {
        merge(&workers[i].links);
        fine = add_links(answers, &workers[i].links) && add_findings(answers, &workers[i].findings);
    }
    if (!fine)
        Py_CLEAR(answers);
    return answers;
}

/* Reads the tuple of (names, shallow) into subtrees, which borrow the names; false with an exception set. */
static bool read_subtrees(PyObject *given, struct walk *walk)
{
    walk->count = (size_t)PyTuple_Size(given);
    walk->subtrees = calloc(walk->count ? walk->count : 1, sizeof *walk->subtrees);
    if (!walk->subtrees) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < walk->count; i++) {
        struct subtree *subtree = &walk->subtrees[i];
        const char *names;
        Py_ssize_t length;
        int shallow;
        if (!PyArg_ParseTuple(PyTuple_GetItem(given, (Py_ssize_t)i), "y#p", &names, &length, &shallow))
            return false;
        for (Py_ssize_t at = 0; at < length; at += (Py_ssize_t)strlen(names + at) + 1) {
            if (!names[at] || strchr(names + at, '/')) {
                PyErr_SetString(PyExc_ValueError, "a name is empty or has a slash");
                return false;
            }
            subtree->count++;
        }
        if (!subtree->count) {
            PyErr_SetString(PyExc_ValueError, "a subtree without a name");
            return false;
        }
        subtree->names = names;
        subtree->shallow = shallow;
        subtree->tally = NOTHING;
    }
    return true;
}

static PyObject *measure_with(struct walk *walk, unsigned threads, PyObject *tick)
{
    PyObject *answers = NULL;
    threads = affordable(walk, threads);
    struct worker *workers = calloc(threads, sizeof *workers);
    if (!workers)
        return PyErr_NoMemory();
    if (!prepare(workers, threads, walk))
        PyErr_NoMemory();
    else if (run(walk, workers, threads, tick))
        answers = answers_of(walk, workers, threads);
    clear(workers, threads, walk);
    free(workers);
    return answers;
}

static PyObject *measure(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    struct walk walk = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};
    PyObject *given, *tick, *answers = NULL;
    int threads;
    if (!PyArg_ParseTuple(arguments, "iOiO:measure", &walk.start, &given, &threads, &tick))
        return NULL;
    if (!PyTuple_Check(given) || threads < 1) {
        PyErr_SetString(PyExc_ValueError, "a tuple of subtrees and one thread or more are needed");
        return NULL;
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&walk.end, &attributes);
    pthread_condattr_destroy(&attributes);
    if (read_subtrees(given, &walk))
        answers = measure_with(&walk, (unsigned)threads, tick);
    pthread_cond_destroy(&walk.end);
    free(walk.subtrees);
    return answers;
}

PyDoc_STRVAR(measure_doc, "measure(start, subtrees, threads, tick, /)\n--\n\n"
                          "Measures subtrees below the open directory start; as measure_all in usage.py.");

/* What could not be unlinked: which of the names, and why. */
struct stuck {
    size_t number;
    int error;
};

/* Unlinks names, each with its NUL, one or more until a tick is over; what is gone already is no failure. Answers with how many
   were tried, and tells of those that stay. */
static size_t unlink_names(int directory, const char *names, const char *end, struct stuck *stuck, size_t *stay)
{
    struct timespec until = after_a_tick();
    size_t number = 0;
    *stay = 0;
    do {
        if (unlinkat(directory, names, 0) && errno != ENOENT)
            stuck[(*stay)++] = (struct stuck){number, errno};
        number++;
        names += strlen(names) + 1;
    } while (names < end && !is_later(now(), until));
    return number;
}

static PyObject *unlinked(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    const char *names;
    Py_ssize_t length;
    int directory;
    if (!PyArg_ParseTuple(arguments, "iy#:unlink", &directory, &names, &length))
        return NULL;
    size_t count = 0;
    for (Py_ssize_t at = 0; at < length; at++)
        count += !names[at];
    if (!length || names[length - 1] || memchr(names, '/', (size_t)length)) {
        PyErr_SetString(PyExc_ValueError, "names are needed, each with a NUL behind it and no slash in it");
        return NULL;
    }
    struct stuck *stuck = calloc(count, sizeof *stuck);
    if (!stuck)
        return PyErr_NoMemory();
    size_t tried, stay;
    Py_BEGIN_ALLOW_THREADS
    tried = unlink_names(directory, names, names + length, stuck, &stay);
    Py_END_ALLOW_THREADS
    PyObject *answer = PyList_New(0);
    for (size_t number = 0; answer && number < stay; number++)
        if (!append(answer, Py_BuildValue("(ni)", (Py_ssize_t)stuck[number].number, stuck[number].error)))
            Py_CLEAR(answer);
    free(stuck);
    return answer ? Py_BuildValue("(nN)", (Py_ssize_t)tried, answer) : NULL;
}

PyDoc_STRVAR(unlink_doc, "unlink(directory, names, /)\n--\n\n"
                         "Unlinks names of the open directory, each with its NUL; as unlink in unlinking.py.");

static PyMethodDef methods[] = {
    {"measure", measure, METH_VARARGS, measure_doc}, {"unlink", unlinked, METH_VARARGS, unlink_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "arawn_cli._usage", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__usage(void)
{
    return PyModuleDef_Init(&definition);
}
