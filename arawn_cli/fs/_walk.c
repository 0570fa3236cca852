/* The walk: no recursion, no link followed, no other filesystem entered. A tree with more than MAX_OPEN levels
   fails with EMFILE, as without a free descriptor; Python then walks it with fewer open.

   Each thread walks one subtree after the other, depth first. When another thread is idle, it gives that thread half of
   the shallowest directories that are still to be entered, or the files of one listing. Such a share is a unit of work. */

/* Python.h, which _measure.c includes, defines both like this. */
#define _GNU_SOURCE 1
#define _FILE_OFFSET_BITS 64
#include "_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    MAX_OPEN = 48,             /* open directories per thread: one for each level */
    LISTING_BYTES = 1 << 16,   /* buffer of one getdents64(2) */
    SHARED_BYTES = 1 << 11,    /* a listing of this size, about 64 names, is worth sharing */
    PROGRESS_NSECS = 50000000, /* how often the calling thread can handle signals */
    MERGE_LINKS = 1000,        /* hard links to collect, at least, before duplicates are merged */
    BLOCK_BYTES = 512,         /* unit of st_blocks on every filesystem: stat(2) */
};

static const int OPEN_DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;

/* A directory on the way from the top of the subtree to the current directory. */
struct level {
    int descriptor;
    int parent;            /* descriptor of the directory that holds it */
    const char *name;      /* in the parent; the level above keeps it. NULL: this thread does not remove it. */
    bool sticky;           /* only the owner of an entry may remove it */
    char path[PATH_BYTES]; /* below the subtree */
    struct list pending;   /* names, each with its NUL: subdirectories that are still to be entered */
};

/* Work in one directory that one thread gives to another. */
struct unit {
    struct unit *next;
    size_t subtree;
    struct level level;
    struct list names; /* entries that are still to be visited */
};

struct worker {
    struct walk *walk;
    pthread_t thread;
    struct list links;
    size_t merge_at; /* count of hard links at which duplicates are merged */

    size_t subtree; /* in progress */
    struct usage usage;
    struct level levels[MAX_OPEN];
    size_t depth;

    _Alignas(struct dirent64) char listing[LISTING_BYTES];
};

/* Whether nothing is left to do; under the lock. */
static bool is_over(const struct walk *walk)
{
    return walk->stop || walk->finished == walk->count;
}

static bool has_idle_thread(const struct walk *walk)
{
    return walk->idle > walk->queued;
}

static void stop_without_memory(struct walk *walk)
{
    walk->no_memory = walk->stop = true;
}

static bool extend(struct walk *walk, struct list *list, const void *items, size_t count, size_t size)
{
    if (!count)
        return true;
    if (list->count + count > list->room) {
        size_t room = 64 + 2 * (list->count + count);
        void *grown = realloc(list->items, room * size);
        if (!grown) {
            stop_without_memory(walk);
            return false;
        }
        list->items = grown;
        list->room = room;
    }
    memcpy((char *)list->items + list->count * size, items, count * size);
    list->count += count;
    return true;
}

static void add_name(struct walk *walk, struct list *names, const char *name)
{
    extend(walk, names, name, strlen(name) + 1, 1);
}

/* Return where the name begins that the byte at `position` belongs to. */
static size_t name_start(const struct list *names, size_t position)
{
    const char *bytes = names->items;
    while (position && bytes[position - 1])
        position--;
    return position;
}

/* Take the last name, which stays valid until another one is added; NULL if there is none. */
static const char *take_name(struct list *names)
{
    if (!names->count)
        return NULL;
    names->count = name_start(names, names->count - 1);
    return (const char *)names->items + names->count;
}

static struct level *current_level(struct worker *worker)
{
    return &worker->levels[worker->depth - 1];
}

/* ---- findings ---- */

/* Write the path below the subtree of the entry `name` of the current directory, which is that directory if the name is
   empty; cut it to PATH_BYTES. Outside of all directories the entry is the top of the subtree, whose path is empty. */
static void write_path(struct worker *worker, const char *name, char *path)
{
    path[0] = 0;
    if (!worker->depth)
        return;
    const char *directory = current_level(worker)->path;
    size_t most = PATH_BYTES - 1, end = strlen(directory), length;
    memcpy(path, directory, end);
    if (end && *name && end < most)
        path[end++] = '/';
    length = strnlen(name, most - end);
    memcpy(path + end, name, length);
    path[end + length] = 0;
}

static void record_finding(struct worker *worker, enum kind kind, const char *name, uint32_t number)
{
    struct walk *walk = worker->walk;
    char path[PATH_BYTES];
    write_path(worker, name, path);
    pthread_mutex_lock(&walk->lock);
    unsigned long long *found = &walk->subtrees[worker->subtree].found[kind];
    if (*found < (walk->findings.count < LISTED_MAX ? FINDINGS_MAX : 1)) {
        struct finding finding = {worker->subtree, kind, number, strdup(path)};
        if (!finding.path || !extend(walk, &walk->findings, &finding, 1, sizeof finding)) {
            stop_without_memory(walk);
            free(finding.path);
        }
    }
    ++*found;
    pthread_mutex_unlock(&walk->lock);
}

static void record_failure(struct worker *worker, enum kind kind, const char *name, int error)
{
    if (error == EMFILE || error == ENFILE)
        kind = NO_DESCRIPTOR;
    if (error != ENOENT) /* else somebody removed it in the meantime */
        record_finding(worker, kind, name, (uint32_t)error);
}

static dev_t device_of(const struct statx *status)
{
    return makedev(status->stx_dev_major, status->stx_dev_minor);
}

static unsigned long long allocated_bytes(const struct statx *status)
{
    return status->stx_blocks * BLOCK_BYTES;
}

/* Compare subtree, device and inode, which have no padding between them. */
static int compare_files(const void *one, const void *other)
{
    return memcmp(one, other, offsetof(struct hard_link, apparent));
}

/* Merge the entries of the same file, so that a file with many names needs no more memory. */
static void merge_links(struct list *links)
{
    struct hard_link *items = links->items;
    if (!links->count)
        return;
    qsort(items, links->count, sizeof *items, compare_files);
    size_t last = 0;
    for (size_t i = 1; i < links->count; i++) {
        if (compare_files(&items[last], &items[i]) == 0)
            items[last].found += items[i].found;
        else
            items[++last] = items[i];
    }
    links->count = last + 1;
}

static void record_link(struct worker *worker, const struct statx *status)
{
    if (worker->links.count >= worker->merge_at) {
        merge_links(&worker->links);
        worker->merge_at = MERGE_LINKS + 2 * worker->links.count;
    }
    struct hard_link link = {worker->subtree, device_of(status), status->stx_ino, status->stx_size, allocated_bytes(status), 1,
                             status->stx_nlink};
    extend(worker->walk, &worker->links, &link, 1, sizeof link);
}

/* ---- counting ---- */

/* Add, but never past 64 bits: sparse files may claim more than that together. */
static void add(unsigned long long *sum, unsigned long long more)
{
    *sum = *sum > ULLONG_MAX - more ? ULLONG_MAX : *sum + more;
}

/* Return whether a time is later than the newest so far (1), the same (0) or earlier (-1). */
static int compare_time(const struct usage *usage, struct statx_timestamp time)
{
    struct statx_timestamp newest = usage->newest;
    if (!usage->newest_path)
        return 1;
    if (time.tv_sec != newest.tv_sec)
        return time.tv_sec > newest.tv_sec ? 1 : -1;
    return (time.tv_nsec > newest.tv_nsec) - (time.tv_nsec < newest.tv_nsec);
}

static void count_time(struct walk *walk, struct usage *usage, struct statx_timestamp time, const char *path)
{
    int later = compare_time(usage, time);
    if (later < 0 || (later == 0 && strcmp(path, usage->newest_path) >= 0))
        return;
    free(usage->newest_path);
    usage->newest = time;
    usage->newest_path = strdup(path);
    if (!usage->newest_path)
        stop_without_memory(walk);
}

/* Count the entry `name` of the current directory. */
static void count_entry(struct worker *worker, const char *name, const struct statx *status)
{
    struct usage *usage = &worker->usage;
    if (compare_time(usage, status->stx_mtime) >= 0) {
        char path[PATH_BYTES];
        write_path(worker, name, path);
        count_time(worker->walk, usage, status->stx_mtime, path);
    }
    bool is_file = S_ISREG(status->stx_mode);
    if (is_file && status->stx_size > usage->largest)
        usage->largest = status->stx_size;
    if (is_file && status->stx_nlink > 1) {
        record_link(worker, status);
        return;
    }
    add(&usage->allocated, allocated_bytes(status));
    add(&usage->apparent, is_file ? status->stx_size : 0);
    usage->files += is_file;
    usage->directories += S_ISDIR(status->stx_mode);
}

/* Add a part, and free its path. */
static void add_usage(struct walk *walk, struct usage *sum, struct usage *part)
{
    add(&sum->apparent, part->apparent);
    add(&sum->allocated, part->allocated);
    sum->files += part->files;
    sum->directories += part->directories;
    if (part->largest > sum->largest)
        sum->largest = part->largest;
    if (part->newest_path)
        count_time(walk, sum, part->newest, part->newest_path);
    free(part->newest_path);
    *part = (struct usage){0};
}

/* ---- permission to remove ---- */

static bool may_act_as_owner(const struct worker *worker, const struct statx *status)
{
    const struct account *account = &worker->walk->account;
    bool mapped = status->stx_uid != account->unmapped && status->stx_gid != account->unmapped;
    return status->stx_uid == account->user || (account->acts_as_owner && mapped);
}

/* Record why the account cannot remove the entry `name` of the current directory. */
static void check_removable(struct worker *worker, const char *name, const struct statx *status)
{
    bool owner = may_act_as_owner(worker, status);
    if (status->stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
        record_finding(worker, FLAGGED, name, status->stx_uid);
    else if (!owner && worker->depth && current_level(worker)->sticky)
        record_finding(worker, FOREIGN, name, status->stx_uid);
    if (!owner && S_ISREG(status->stx_mode) && status->stx_nlink > 1)
        record_finding(worker, LINKED, name, status->stx_uid);
}

static bool can_access(int directory, int mode)
{
    return faccessat(directory, ".", mode, AT_EACCESS) == 0;
}

/* ---- sharing ---- */

/* Return a unit in the directory of a level, without names yet, or NULL without descriptors or memory. */
static struct unit *new_unit(const struct worker *worker, const struct level *level)
{
    struct unit *unit = malloc(sizeof *unit);
    int descriptor = unit ? fcntl(level->descriptor, F_DUPFD_CLOEXEC, 0) : -1;
    if (descriptor < 0) {
        free(unit);
        return NULL;
    }
    *unit = (struct unit){.subtree = worker->subtree, .level = *level};
    unit->level.descriptor = descriptor;
    unit->level.name = NULL;
    unit->level.pending = (struct list){0};
    return unit;
}

static void queue_unit(struct walk *walk, struct unit *unit)
{
    pthread_mutex_lock(&walk->lock);
    unit->next = walk->queue;
    walk->queue = unit;
    walk->queued++;
    walk->subtrees[unit->subtree].units++;
    pthread_cond_signal(&walk->work);
    pthread_mutex_unlock(&walk->lock);
}

/* Give half of the shallowest directories that are still to be entered to an idle thread. */
static void share_directories(struct worker *worker)
{
    struct level *level = worker->levels, *here = current_level(worker);
    while (level < here && !level->pending.count)
        level++;
    struct list *pending = &level->pending;
    struct unit *unit = pending->count ? new_unit(worker, level) : NULL;
    if (!unit)
        return;
    size_t kept = name_start(pending, pending->count / 2);
    extend(worker->walk, &unit->level.pending, (const char *)pending->items + kept, pending->count - kept, 1);
    pending->count = kept;
    queue_unit(worker->walk, unit);
}

/* ---- directories ---- */

/* Read the status of an entry of an open directory, or of the directory if the name is empty. */
static bool read_status(int directory, const char *name, struct statx *status)
{
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
    return statx(directory, name, flags, STATX_BASIC_STATS, status) == 0;
}

/* Count and check an entry of the current directory, or delete it. A subdirectory is entered later. */
static void visit_entry(struct worker *worker, const char *name)
{
    struct level *here = current_level(worker);
    struct statx status;
    if (worker->walk->deletes) {
        if (unlinkat(here->descriptor, name, 0) < 0 && errno == EISDIR)
            add_name(worker->walk, &here->pending, name);
    } else if (!read_status(here->descriptor, name, &status)) {
        record_failure(worker, STAT_FAILED, name, errno);
    } else if (S_ISDIR(status.stx_mode)) {
        add_name(worker->walk, &here->pending, name);
    } else {
        check_removable(worker, name, &status);
        count_entry(worker, name, &status);
    }
}

/* Visit the files of the current directory, or share them, and collect its subdirectories. `closed` is its status if the
   account cannot change it, else NULL: then nothing in it can be removed. */
static void list_directory(struct worker *worker, const struct statx *closed)
{
    struct walk *walk = worker->walk;
    struct level *here = current_level(worker);
    while (!walk->stop) {
        ssize_t filled = getdents64(here->descriptor, worker->listing, LISTING_BYTES);
        if (filled < 0)
            record_failure(worker, LIST_FAILED, "", errno);
        if (filled <= 0)
            return;
        struct unit *unit = filled >= SHARED_BYTES && has_idle_thread(walk) ? new_unit(worker, here) : NULL;
        for (ssize_t at = 0; at < filled && !walk->stop;) {
            const struct dirent64 *entry = (const struct dirent64 *)(worker->listing + at);
            at += entry->d_reclen;
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                continue;
            if (closed)
                record_finding(worker, FOREIGN, "", closed->stx_uid);
            closed = NULL;
            if (entry->d_type == DT_DIR)
                add_name(walk, &here->pending, entry->d_name);
            else if (unit)
                add_name(walk, &unit->names, entry->d_name);
            else
                visit_entry(worker, entry->d_name);
        }
        if (unit)
            queue_unit(walk, unit);
    }
}

/* Make the directory `name` of the open directory `parent` the current one, which owns the descriptor from then on. */
static void push_level(struct worker *worker, int parent, const char *name, int descriptor, bool sticky)
{
    struct level *level = &worker->levels[worker->depth];
    *level = (struct level){.descriptor = descriptor, .parent = parent, .name = name, .sticky = sticky};
    write_path(worker, name, level->path);
    worker->depth++;
}

/* Record that the account cannot enter a directory. If it is another account's, nothing in it can be removed. */
static void record_closed(struct worker *worker, int parent, const char *name, int error)
{
    struct statx status;
    record_failure(worker, OPEN_FAILED, name, error);
    if (error == EACCES && read_status(parent, name, &status) && status.stx_uid != worker->walk->account.user)
        record_finding(worker, FOREIGN, name, status.stx_uid);
}

/* Count, check and enter an open directory; false if the account cannot read what is in it. */
static bool measure_directory(struct worker *worker, int parent, const char *name, int descriptor, const struct statx *status)
{
    uint32_t user = worker->walk->account.user;
    count_entry(worker, name, status);
    check_removable(worker, name, status);
    /* The owner may give itself access; for others even the right to change the mode would not do. */
    bool closed = status->stx_uid != user && !can_access(descriptor, W_OK | X_OK);
    if ((closed || (status->stx_mode & S_IRWXU) != S_IRWXU) && !can_access(descriptor, X_OK)) {
        record_closed(worker, parent, name, errno);
        return false;
    }
    push_level(worker, parent, name, descriptor, status->stx_mode & S_ISVTX && !may_act_as_owner(worker, status));
    list_directory(worker, closed ? status : NULL);
    return true;
}

/* Enter the directory `name` of the open directory `parent`, the current one if the walk is in the subtree. */
static void enter(struct worker *worker, int parent, const char *name)
{
    struct statx status;
    int descriptor = openat(parent, name, OPEN_DIRECTORY);
    if (descriptor < 0) {
        record_closed(worker, parent, name, errno);
        return;
    }
    bool entered = false;
    if (worker->depth == MAX_OPEN) {
        record_failure(worker, OPEN_FAILED, name, EMFILE);
    } else if (!read_status(descriptor, "", &status)) {
        record_failure(worker, OPEN_FAILED, name, errno);
    } else if (device_of(&status) != worker->walk->subtrees[worker->subtree].device) {
        record_finding(worker, MOUNTED, name, 0);
    } else if (!worker->walk->deletes) {
        entered = measure_directory(worker, parent, name, descriptor, &status);
    } else {
        if ((status.stx_mode & S_IRWXU) != S_IRWXU)
            fchmod(descriptor, (status.stx_mode & 07777) | S_IRWXU); /* a read-only one; if it is not ours, the kernel decides */
        push_level(worker, parent, name, descriptor, false);
        list_directory(worker, NULL);
        entered = true;
    }
    if (!entered)
        close(descriptor);
}

/* Leave the current directory, and remove it if trees are deleted. */
static void leave(struct worker *worker)
{
    const struct level *left = &worker->levels[--worker->depth];
    close(left->descriptor);
    free(left->pending.items);
    if (worker->walk->deletes && !worker->walk->stop && left->name)
        unlinkat(left->parent, left->name, AT_REMOVEDIR);
}

/* Walk through the open directories, and leave them. */
static void walk_levels(struct worker *worker)
{
    while (worker->depth) {
        struct level *here = current_level(worker);
        const char *name = worker->walk->stop ? NULL : take_name(&here->pending);
        if (!name) {
            leave(worker);
            continue;
        }
        /* Not before it has one itself: two threads could pass it on for ever. */
        if (has_idle_thread(worker->walk))
            share_directories(worker);
        enter(worker, here->descriptor, name);
    }
}

/* ---- threads ---- */

/* Return a descriptor of the directory that holds a subtree, to be closed unless it is the start, or -1 with
   errno. Set `name` to the name of the subtree in it. */
static int open_holder(int start, const struct subtree *subtree, const char **name)
{
    int descriptor = start;
    *name = subtree->names;
    for (size_t i = 1; i < subtree->count && descriptor >= 0; i++) {
        int below = openat(descriptor, *name, OPEN_DIRECTORY), error = errno;
        if (descriptor != start)
            close(descriptor);
        errno = error;
        descriptor = below;
        *name += strlen(*name) + 1;
    }
    return descriptor;
}

/* Measure a subtree, or delete it as far as possible. Whatever is in the way, or was given to another thread that has not
   deleted it yet, stays with the directories above it: Python goes through these again, and reports what it cannot delete. */
static void walk_subtree(struct worker *worker)
{
    const struct walk *walk = worker->walk;
    struct subtree *subtree = &walk->subtrees[worker->subtree];
    const char *name;
    struct statx top;
    int holder = open_holder(walk->start, subtree, &name);
    if (holder < 0) {
        record_failure(worker, OPEN_FAILED, "", errno);
    } else if (!read_status(holder, name, &top)) {
        record_failure(worker, STAT_FAILED, "", errno);
    } else if (subtree->shallow || !S_ISDIR(top.stx_mode)) {
        count_entry(worker, "", &top);
    } else {
        subtree->device = device_of(&top);
        enter(worker, holder, name);
        walk_levels(worker);
    }
    if (holder >= 0 && holder != walk->start)
        close(holder);
}

static void walk_unit(struct worker *worker, struct unit *unit)
{
    worker->levels[worker->depth++] = unit->level;
    for (const char *name; !worker->walk->stop && (name = take_name(&unit->names));)
        visit_entry(worker, name);
    walk_levels(worker);
    free(unit->names.items);
    free(unit);
}

/* Wait for a unit of a subtree, or for a whole one (NULL), under the lock; false if the walk is over. When it was stopped,
   the units in the queue are still taken, which frees them. */
static bool take_work(struct worker *worker, struct unit **unit)
{
    struct walk *walk = worker->walk;
    while (true) {
        if ((*unit = walk->queue)) {
            walk->queue = (*unit)->next;
            walk->queued--;
            worker->subtree = (*unit)->subtree;
            return true;
        }
        if (is_over(walk))
            return false;
        if (walk->begun < walk->count) {
            worker->subtree = walk->begun++;
            walk->subtrees[worker->subtree].units = 1;
            return true;
        }
        walk->idle++;
        pthread_cond_wait(&walk->work, &walk->lock);
        walk->idle--;
    }
}

static void *run_worker(void *argument)
{
    struct worker *worker = argument;
    struct walk *walk = worker->walk;
    struct unit *unit;
    pthread_mutex_lock(&walk->lock);
    while (take_work(worker, &unit)) {
        pthread_mutex_unlock(&walk->lock);
        if (unit)
            walk_unit(worker, unit);
        else
            walk_subtree(worker);
        pthread_mutex_lock(&walk->lock);
        struct subtree *subtree = &walk->subtrees[worker->subtree];
        add_usage(walk, &subtree->usage, &worker->usage);
        walk->finished += --subtree->units == 0;
    }
    pthread_cond_broadcast(&walk->work);
    pthread_cond_signal(&walk->over);
    pthread_mutex_unlock(&walk->lock);
    return NULL;
}

/* ---- called by the thread of Python ---- */

/* Start up to `threads` threads, as many as the system allows, perhaps none. */
void start_walk(struct walk *walk, unsigned threads)
{
    walk->workers = calloc(threads, sizeof *walk->workers);
    if (!walk->workers) {
        stop_without_memory(walk);
        return;
    }
    /* Threads inherit the mask: only Python's threads handle signals, which would also interrupt
       calls on NFS or FUSE. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; walk->threads < threads; walk->threads++) {
        struct worker *worker = &walk->workers[walk->threads];
        worker->walk = walk;
        if (pthread_create(&worker->thread, NULL, run_worker, worker))
            break; /* a limit on threads, as with TasksMax= of systemd */
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Wait for the end of the walk, or a moment. Return how many subtrees are finished. */
size_t wait_for_progress(struct walk *walk, bool *over)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PROGRESS_NSECS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&walk->lock);
    if (!is_over(walk))
        pthread_cond_clockwait(&walk->over, &walk->lock, CLOCK_MONOTONIC, &until);
    *over = is_over(walk);
    size_t finished = walk->finished;
    pthread_mutex_unlock(&walk->lock);
    return finished;
}

/* Stop the threads if the walk is not over, wait for them and collect their hard links. */
void finish_walk(struct walk *walk)
{
    pthread_mutex_lock(&walk->lock);
    walk->stop = true;
    pthread_cond_broadcast(&walk->work);
    pthread_mutex_unlock(&walk->lock);
    for (unsigned i = 0; i < walk->threads; i++) {
        struct worker *worker = &walk->workers[i];
        pthread_join(worker->thread, NULL);
        extend(walk, &walk->links, worker->links.items, worker->links.count, sizeof(struct hard_link));
        free(worker->links.items);
    }
    free(walk->workers);
    merge_links(&walk->links);
}

void free_results(struct walk *walk)
{
    struct finding *findings = walk->findings.items;
    for (size_t i = 0; i < walk->findings.count; i++)
        free(findings[i].path);
    free(findings);
    free(walk->links.items);
    for (size_t i = 0; i < walk->count; i++)
        free(walk->subtrees[i].usage.newest_path);
}
