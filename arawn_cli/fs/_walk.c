/* The way of one thread down and up in a subtree, and what it counts on it: no recursion, no link followed, no other filesystem
   entered, and a bounded number of descriptors whatever the depth.

   The way up leads through the `parent` pointers; of the directories on it the MAX_OPEN deepest are open, and one further up is
   opened again through "..", where device and inode number prove that it is the same.

   What is done for every file stands here together, where the compiler can inline it. */

#include "_walk.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SHARED_FILES = 64, /* names that are worth a second thread */
    BLOCK = 512,       /* the unit of st_blocks, whatever the filesystem's block size (stat(2)) */
};

/* The record of getdents64(2). */
struct record {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* ---- names ---- */

bool add_name(struct walk *walk, struct names *names, const char *name, size_t length)
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

const char *next_name(struct names *names)
{
    if (names->next == names->end)
        return NULL;
    const char *name = names->bytes + names->next;
    names->next += strlen(name) + 1;
    return name;
}

/* ---- what is counted ---- */

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

void count(struct worker *worker, const struct stat *status)
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

void add_tally(struct tally *sum, const struct tally *part)
{
    add(&sum->apparent, part->apparent);
    add(&sum->allocated, part->allocated);
    sum->files += part->files;
    sum->directories += part->directories;
    note_size(sum, part->largest);
    if (part->any)
        note_time(sum, part->newest);
}

/* Counts the entry of an open directory, unless it is a directory, which is left to be entered. */
void measure_entry(struct worker *worker, struct directory *at, const char *name)
{
    struct stat status;
    if (fstatat(at->descriptor, name, &status, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
        find(worker, "stat", at, name, errno);
    else if (S_ISDIR(status.st_mode))
        add_name(worker->walk, &at->pending, name, strlen(name) + 1);
    else
        count(worker, &status);
}

/* ---- down and up ---- */

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

void stand_in(struct worker *worker, struct directory *directory)
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
void enter(struct worker *worker, int parent, const char *name, const char *shown)
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

/* ---- what stands in a directory ---- */

static bool is_self_or_parent(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static bool is_wanted(const struct worker *worker)
{
    return atomic_load_explicit(&worker->walk->wanting, memory_order_relaxed) > 0;
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

void walk_on(struct worker *worker)
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
