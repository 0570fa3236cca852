/* The walk, to measure or to delete: no recursion, no link followed, no other filesystem entered. A tree with more than MAX_OPEN
   levels fails with EMFILE, as without a free descriptor; Python then measures it with fewer open.

   Each thread walks one subtree after the other, depth first. When another thread is idle, it
   gives that thread half of the shallowest directories that are still to be entered, or the files
   of one listing. Such a share is a unit of work. */

#include "_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    MAX_THREADS = 64,
    MAX_OPEN = 48,             /* open directories per thread: one for each level */
    LISTING_BYTES = 1 << 16,   /* buffer of one getdents64(2) */
    SHARED_BYTES = 1 << 11,    /* a listing of this size, about 64 names, is worth sharing */
    STACK_BYTES = 1 << 18,     /* stack of a thread */
    PROGRESS_NSECS = 50000000, /* how often the calling thread can handle signals */
    MERGE_LINKS = 1000,        /* hard links to collect, at least, before duplicates are merged */
    BLOCK_BYTES = 512,         /* unit of st_blocks on every filesystem: stat(2) */
};

static const int OPEN_DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;

/* Names, each with its NUL. Those before `next` are done. */
struct names {
    char *bytes;
    size_t next, end, room;
};

/* A directory on the way from the top of the subtree to the current directory. */
struct level {
    size_t path_end; /* its path below the subtree is the beginning of the worker's */
    const char *name; /* in the level above, which keeps it */
    ino_t inode;
    bool sticky;          /* only the owner of an entry may remove it */
    int descriptor;
    struct names pending; /* subdirectories that are still to be entered */
};

/* Work in one directory that one thread gives to another. */
struct unit {
    struct unit *next;
    size_t subtree;
    char *path; /* of the directory, below the subtree */
    dev_t device;
    ino_t inode;
    bool sticky;
    int descriptor;
    struct names directories, files;
};

/* A thread. */
struct worker {
    struct walk *walk;
    pthread_t thread;
    struct list links;
    size_t merge_at; /* count of hard links at which duplicates are merged */

    size_t subtree; /* in progress */
    dev_t device;   /* of the subtree */
    struct usage usage;
    struct level *levels;
    size_t depth, room;
    struct names path; /* of the current directory below the subtree, without a NUL */

    _Alignas(uint64_t) char listing[LISTING_BYTES];
};

/* The record of getdents64(2). */
struct record {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* ---- state and memory ---- */

static bool is_stopped(const struct walk *walk)
{
    return atomic_load_explicit(&walk->stop, memory_order_relaxed);
}

static bool has_idle_thread(const struct walk *walk)
{
    size_t idle = atomic_load_explicit(&walk->idle, memory_order_relaxed);
    return idle > atomic_load_explicit(&walk->queued, memory_order_relaxed);
}

static void stop_without_memory(struct walk *walk)
{
    atomic_store(&walk->no_memory, true);
    atomic_store(&walk->stop, true);
}

/* Return an array with room for `count` items of `size` bytes, or NULL without memory. */
static void *grow(struct walk *walk, void *items, size_t *room, size_t count, size_t size)
{
    if (count <= *room)
        return items;
    size_t wanted = *room ? *room * 2 : 64;
    while (wanted < count)
        wanted *= 2;
    items = realloc(items, wanted * size);
    if (items)
        *room = wanted;
    else
        stop_without_memory(walk);
    return items;
}

static bool add_names(struct walk *walk, struct names *names, const char *bytes, size_t length)
{
    char *grown = grow(walk, names->bytes, &names->room, names->end + length, 1);
    if (!grown)
        return false;
    names->bytes = grown;
    memcpy(names->bytes + names->end, bytes, length);
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

/* Append items; false without memory. */
static bool extend(struct walk *walk, struct list *list, const void *items, size_t count, size_t size)
{
    if (!count)
        return true;
    void *grown = grow(walk, list->items, &list->room, list->count + count, size);
    if (!grown)
        return false;
    list->items = grown;
    memcpy((char *)list->items + list->count * size, items, count * size);
    list->count += count;
    return true;
}

/* ---- findings ---- */

/* Write the path below the subtree of the entry `name` of the directory at levels[depth - 1], which is that
   directory if the name is empty; cut it to PATH_BYTES. */
static void write_path(const struct worker *worker, size_t depth, const char *name, char *path)
{
    size_t most = PATH_BYTES - 1, end = depth ? worker->levels[depth - 1].path_end : 0;
    end = end < most ? end : most;
    if (end)
        memcpy(path, worker->path.bytes, end);
    if (end && *name && end < most)
        path[end++] = '/';
    size_t length = strnlen(name, most - end);
    memcpy(path + end, name, length);
    path[end + length] = 0;
}

static void record_finding(struct worker *worker, enum kind kind, size_t depth, const char *name, uint32_t number)
{
    struct walk *walk = worker->walk;
    char path[PATH_BYTES];
    write_path(worker, depth, name, path);
    pthread_mutex_lock(&walk->lock);
    uint64_t *found = &walk->subtrees[worker->subtree].found[kind];
    if (*found < (walk->findings.count < LISTED_MAX ? FINDINGS_MAX : 1)) {
        struct finding finding = {worker->subtree, kind, number, strdup(path)};
        if (!finding.path)
            stop_without_memory(walk);
        else if (!extend(walk, &walk->findings, &finding, 1, sizeof finding))
            free(finding.path);
    }
    ++*found;
    pthread_mutex_unlock(&walk->lock);
}

static void record_failure(struct worker *worker, enum kind kind, size_t depth, const char *name, int error)
{
    if (error == EMFILE || error == ENFILE)
        kind = NO_DESCRIPTOR;
    if (error != ENOENT) /* else somebody removed it in the meantime */
        record_finding(worker, kind, depth, name, (uint32_t)error);
}

static dev_t device_of(const struct statx *status)
{
    return makedev(status->stx_dev_major, status->stx_dev_minor);
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

static void record_link(struct worker *worker, const struct statx *status, uint64_t allocated)
{
    if (worker->links.count >= worker->merge_at) {
        merge_links(&worker->links);
        worker->merge_at = MERGE_LINKS + 2 * worker->links.count;
    }
    struct hard_link link = {worker->subtree, device_of(status), status->stx_ino, status->stx_size, allocated, 1, status->stx_nlink};
    extend(worker->walk, &worker->links, &link, 1, sizeof link);
}

/* ---- counting ---- */

/* Add, but never past 64 bits: sparse files may claim more than that together. */
static void add(uint64_t *sum, uint64_t more)
{
    *sum = *sum > UINT64_MAX - more ? UINT64_MAX : *sum + more;
}

/* Return whether a time is later than the newest so far (1), the same (0) or earlier (-1). */
static int compare_time(const struct usage *usage, struct timespec time)
{
    struct timespec newest = usage->newest;
    if (!usage->any)
        return 1;
    if (time.tv_sec != newest.tv_sec)
        return time.tv_sec > newest.tv_sec ? 1 : -1;
    return (time.tv_nsec > newest.tv_nsec) - (time.tv_nsec < newest.tv_nsec);
}

static void count_time(struct walk *walk, struct usage *usage, struct timespec time, const char *path)
{
    int later = compare_time(usage, time);
    if (later < 0 || (later == 0 && strcmp(path, usage->newest_path) >= 0))
        return;
    free(usage->newest_path);
    usage->newest = time;
    usage->newest_path = strdup(path);
    usage->any = usage->newest_path != NULL;
    if (!usage->any)
        stop_without_memory(walk);
}

/* Count the entry `name` of the directory at levels[depth - 1]. */
static void count_entry(struct worker *worker, size_t depth, const char *name, const struct statx *status)
{
    struct usage *usage = &worker->usage;
    struct timespec time = {.tv_sec = status->stx_mtime.tv_sec, .tv_nsec = status->stx_mtime.tv_nsec};
    if (compare_time(usage, time) >= 0) {
        char path[PATH_BYTES];
        write_path(worker, depth, name, path);
        count_time(worker->walk, usage, time, path);
    }
    uint64_t allocated = status->stx_blocks * BLOCK_BYTES;
    if (S_ISDIR(status->stx_mode)) {
        usage->directories++;
    } else if (S_ISREG(status->stx_mode)) {
        if (status->stx_size > usage->largest)
            usage->largest = status->stx_size;
        if (status->stx_nlink > 1) {
            record_link(worker, status, allocated);
            return;
        }
        usage->files++;
        add(&usage->apparent, status->stx_size);
    }
    add(&usage->allocated, allocated);
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
    if (part->any)
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

/* Record why the account cannot remove the entry `name` of the directory at levels[depth - 1]. */
static void check_removable(struct worker *worker, size_t depth, const char *name, const struct statx *status)
{
    bool flagged = status->stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND), owner = may_act_as_owner(worker, status);
    if (flagged)
        record_finding(worker, FLAGGED, depth, name, status->stx_uid);
    else if (!owner && depth && worker->levels[depth - 1].sticky)
        record_finding(worker, FOREIGN, depth, name, status->stx_uid);
    if (!owner && S_ISREG(status->stx_mode) && status->stx_nlink > 1)
        record_finding(worker, LINKED, depth, name, status->stx_uid);
}

/* Read the status of an entry of an open directory, or of the directory itself if the name is empty. */
static bool read_status(int directory, const char *name, struct statx *status)
{
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
    return statx(directory, name, flags, STATX_BASIC_STATS, status) == 0;
}

static bool can_access(int directory, int mode)
{
    return faccessat(directory, ".", mode, AT_EACCESS) == 0;
}

/* Count and check an entry of the directory at levels[depth - 1]; a subdirectory is entered later. */
static void measure_entry(struct worker *worker, size_t depth, const char *name)
{
    struct level *level = &worker->levels[depth - 1];
    struct statx status;
    if (!read_status(level->descriptor, name, &status)) {
        record_failure(worker, STAT_FAILED, depth, name, errno);
    } else if (S_ISDIR(status.stx_mode)) { /* the filesystem lists no types */
        add_names(worker->walk, &level->pending, name, strlen(name) + 1);
    } else {
        check_removable(worker, depth, name, &status);
        count_entry(worker, depth, name, &status);
    }
}

/* ---- sharing ---- */

static void free_unit(struct unit *unit)
{
    if (unit->descriptor >= 0)
        close(unit->descriptor);
    free(unit->path);
    free(unit->directories.bytes);
    free(unit->files.bytes);
    free(unit);
}

/* Return an empty unit in the directory at levels[depth - 1], or NULL without descriptors or memory. */
static struct unit *new_unit(struct worker *worker, size_t depth)
{
    const struct level *level = &worker->levels[depth - 1];
    struct unit *unit = calloc(1, sizeof *unit);
    if (!unit)
        return NULL;
    unit->subtree = worker->subtree;
    unit->device = worker->device;
    unit->inode = level->inode;
    unit->sticky = level->sticky;
    unit->path = strndup(level->path_end ? worker->path.bytes : "", level->path_end);
    unit->descriptor = fcntl(level->descriptor, F_DUPFD_CLOEXEC, 0);
    if (unit->path && unit->descriptor >= 0)
        return unit;
    free_unit(unit);
    return NULL;
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

/* Move the first half of the names, at least one, and never all of several. */
static bool split(struct walk *walk, struct names *names, struct names *half)
{
    size_t cut = names->next, middle = names->next + (names->end - names->next) / 2;
    do
        cut += strlen(names->bytes + cut) + 1;
    while (cut < middle && cut + strlen(names->bytes + cut) < middle);
    if (!add_names(walk, half, names->bytes + names->next, cut - names->next))
        return false;
    names->next = cut;
    return true;
}

/* Give half of the shallowest directories that are still to be entered to an idle thread. */
static void share_directories(struct worker *worker)
{
    size_t at = 0;
    while (at < worker->depth && worker->levels[at].pending.next == worker->levels[at].pending.end)
        at++;
    if (at == worker->depth)
        return;
    struct names *pending = &worker->levels[at].pending;
    /* The thread keeps the last directory that it has, or two threads would pass it on for ever. */
    if (at + 1 == worker->depth && pending->next + strlen(pending->bytes + pending->next) + 1 == pending->end)
        return;
    struct unit *unit = new_unit(worker, at + 1);
    if (!unit)
        return;
    if (split(worker->walk, pending, &unit->directories))
        queue_unit(worker->walk, unit);
    else
        free_unit(unit);
}

/* ---- down and up ---- */

/* Make a directory the current one. It owns the descriptor from then on; false without memory. */
static bool push_level(struct worker *worker, const char *name, int descriptor, ino_t inode, bool sticky)
{
    struct walk *walk = worker->walk;
    struct level *levels = grow(walk, worker->levels, &worker->room, worker->depth + 1, sizeof *levels);
    if (!levels)
        return false;
    worker->levels = levels;
    struct names *path = &worker->path;
    path->end = worker->depth ? levels[worker->depth - 1].path_end : 0;
    if (*name && ((path->end && !add_names(walk, path, "/", 1)) || !add_names(walk, path, name, strlen(name))))
        return false;
    levels[worker->depth++] =
        (struct level){.path_end = path->end, .name = name, .inode = inode, .sticky = sticky, .descriptor = descriptor};
    return true;
}

static void pop_level(struct worker *worker)
{
    struct level *level = &worker->levels[--worker->depth];
    close(level->descriptor);
    free(level->pending.bytes);
}

static bool is_self_or_parent(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* Count the entries of the current directory, or share its files, and collect its subdirectories. If it is
   `closed` to changes by the account and not empty, record that, with its owner. */
static void list_directory(struct worker *worker, bool closed, uint32_t owner)
{
    struct walk *walk = worker->walk;
    size_t depth = worker->depth;
    struct level *here = &worker->levels[depth - 1];
    while (!is_stopped(walk)) {
        long filled = syscall(SYS_getdents64, here->descriptor, worker->listing, (size_t)LISTING_BYTES);
        if (filled < 0)
            record_failure(worker, LIST_FAILED, depth, "", errno);
        if (filled <= 0)
            return;
        struct unit *unit = filled >= SHARED_BYTES && has_idle_thread(walk) ? new_unit(worker, depth) : NULL;
        for (long at = 0; at < filled && !is_stopped(walk);) {
            const struct record *record = (const struct record *)(worker->listing + at);
            at += record->length;
            if (is_self_or_parent(record->name))
                continue;
            if (closed)
                record_finding(worker, FOREIGN, depth, "", owner);
            closed = false;
            if (record->type == DT_DIR)
                add_names(walk, &here->pending, record->name, strlen(record->name) + 1);
            else if (unit)
                add_names(walk, &unit->files, record->name, strlen(record->name) + 1);
            else
                measure_entry(worker, depth, record->name);
        }
        if (unit && unit->files.end)
            queue_unit(walk, unit);
        else if (unit)
            free_unit(unit);
    }
}

/* Enter the directory `name` of the open directory `parent`; `shown` is its name in paths. */
static void enter(struct worker *worker, int parent, const char *name, const char *shown)
{
    struct statx status;
    size_t depth = worker->depth;
    uint32_t user = worker->walk->account.user;
    int descriptor = openat(parent, name, OPEN_DIRECTORY);
    if (descriptor < 0) {
        int error = errno;
        record_failure(worker, OPEN_FAILED, depth, shown, error);
        if (error == EACCES && read_status(parent, name, &status) && status.stx_uid != user)
            record_finding(worker, FOREIGN, depth, shown, status.stx_uid);
        return;
    }
    if (depth == MAX_OPEN) {
        record_failure(worker, OPEN_FAILED, depth, shown, EMFILE);
    } else if (!read_status(descriptor, "", &status)) {
        record_failure(worker, OPEN_FAILED, depth, shown, errno);
    } else if (device_of(&status) != worker->device) {
        record_finding(worker, MOUNTED, depth, shown, 0);
    } else {
        count_entry(worker, depth, shown, &status);
        check_removable(worker, depth, shown, &status);
        bool sticky = status.stx_mode & S_ISVTX && !may_act_as_owner(worker, &status);
        /* The owner may give itself access; for others even the right to change the mode would not do. */
        bool closed = status.stx_uid != user && !can_access(descriptor, W_OK | X_OK);
        if ((closed || (status.stx_mode & S_IRWXU) != S_IRWXU) && !can_access(descriptor, X_OK)) {
            record_failure(worker, OPEN_FAILED, depth, shown, errno);
            if (closed)
                record_finding(worker, FOREIGN, depth, shown, status.stx_uid);
        } else if (push_level(worker, shown, descriptor, status.stx_ino, sticky)) {
            list_directory(worker, closed, status.stx_uid);
            return;
        }
    }
    close(descriptor);
}

/* Delete the files of the current directory, and collect its subdirectories. */
static void delete_files(struct worker *worker)
{
    struct walk *walk = worker->walk;
    struct level *here = &worker->levels[worker->depth - 1];
    long filled;
    while (!is_stopped(walk) && (filled = syscall(SYS_getdents64, here->descriptor, worker->listing, (size_t)LISTING_BYTES)) > 0) {
        for (long at = 0; at < filled && !is_stopped(walk);) {
            const struct record *record = (const struct record *)(worker->listing + at);
            at += record->length;
            if (is_self_or_parent(record->name))
                continue;
            bool directory = record->type == DT_DIR;
            if (!directory && unlinkat(here->descriptor, record->name, 0) < 0)
                directory = errno == EISDIR; /* the filesystem lists no types */
            if (directory)
                add_names(walk, &here->pending, record->name, strlen(record->name) + 1);
        }
    }
}

/* Enter a directory and delete its files. Leave one that cannot be entered, or is of another filesystem. */
static void enter_to_delete(struct worker *worker, int parent, const char *name)
{
    struct statx status;
    int descriptor = openat(parent, name, OPEN_DIRECTORY);
    if (descriptor < 0)
        return;
    if (worker->depth < MAX_OPEN && read_status(descriptor, "", &status) && device_of(&status) == worker->device) {
        if ((status.stx_mode & S_IRWXU) != S_IRWXU)
            fchmod(descriptor, (status.stx_mode & 07777) | S_IRWXU); /* a read-only one; if it is not ours, the kernel decides */
        if (push_level(worker, name, descriptor, status.stx_ino, false)) {
            delete_files(worker);
            return;
        }
    }
    close(descriptor);
}

/* Leave the current directory, and remove it if it is deleted and the level above is this thread's. */
static void leave(struct worker *worker)
{
    const char *name = worker->levels[worker->depth - 1].name;
    pop_level(worker);
    if (worker->walk->deletes && worker->depth)
        unlinkat(worker->levels[worker->depth - 1].descriptor, name, AT_REMOVEDIR);
}

/* Walk everything below the levels. */
static void walk_levels(struct worker *worker)
{
    while (worker->depth && !is_stopped(worker->walk)) {
        if (has_idle_thread(worker->walk))
            share_directories(worker);
        struct level *here = &worker->levels[worker->depth - 1];
        const char *name = next_name(&here->pending);
        if (!name)
            leave(worker);
        else if (worker->walk->deletes)
            enter_to_delete(worker, here->descriptor, name);
        else
            enter(worker, here->descriptor, name, name);
    }
    while (worker->depth) /* stopped */
        pop_level(worker);
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

static void measure_subtree(struct worker *worker, size_t index)
{
    const struct walk *walk = worker->walk;
    const struct subtree *subtree = &walk->subtrees[index];
    const char *name;
    struct statx top;
    worker->subtree = index;
    int holder = open_holder(walk->start, subtree, &name);
    if (holder < 0) {
        record_failure(worker, OPEN_FAILED, 0, "", errno);
        return;
    }
    if (!read_status(holder, name, &top)) {
        record_failure(worker, STAT_FAILED, 0, "", errno);
    } else if (subtree->shallow || !S_ISDIR(top.stx_mode)) {
        count_entry(worker, 0, "", &top);
    } else {
        worker->device = device_of(&top);
        enter(worker, holder, name, "");
        walk_levels(worker);
    }
    if (holder != walk->start)
        close(holder);
}

/* Delete a directory as far as possible. Whatever is in the way, or was given to another thread that has not deleted
   it yet, stays with the directories above it: Python goes through these again, and reports what it cannot delete. */
static void delete_subtree(struct worker *worker, size_t index)
{
    struct walk *walk = worker->walk;
    struct subtree *subtree = &walk->subtrees[index];
    const char *name;
    struct statx top;
    worker->subtree = index;
    int holder = open_holder(walk->start, subtree, &name);
    if (holder < 0)
        return;
    if (read_status(holder, name, &top) && S_ISDIR(top.stx_mode)) {
        worker->device = device_of(&top);
        enter_to_delete(worker, holder, name);
        walk_levels(worker);
        subtree->deleted = unlinkat(holder, name, AT_REMOVEDIR) == 0;
    }
    if (holder != walk->start)
        close(holder);
}

static void measure_unit(struct worker *worker, struct unit *unit)
{
    worker->subtree = unit->subtree;
    worker->device = unit->device;
    if (push_level(worker, unit->path, unit->descriptor, unit->inode, unit->sticky)) {
        worker->levels[0].pending = unit->directories;
        unit->descriptor = -1; /* level 0 owns both now */
        unit->directories = (struct names){0};
        for (const char *name; !is_stopped(worker->walk) && (name = next_name(&unit->files));)
            measure_entry(worker, 1, name);
        walk_levels(worker);
    }
    free_unit(unit);
}

/* Wait for a unit or a subtree, under the lock; false if the walk is over. */
static bool take_work(struct walk *walk, struct unit **unit, size_t *subtree)
{
    while (!is_stopped(walk) && walk->finished < walk->count) {
        if ((*unit = walk->queue)) {
            walk->queue = (*unit)->next;
            walk->queued--;
            return true;
        }
        if (walk->begun < walk->count) {
            *subtree = walk->begun++;
            walk->subtrees[*subtree].units = 1;
            return true;
        }
        walk->idle++;
        pthread_cond_wait(&walk->work, &walk->lock);
        walk->idle--;
    }
    return false;
}

static void *run_worker(void *argument)
{
    struct worker *worker = argument;
    struct walk *walk = worker->walk;
    struct unit *unit;
    size_t index;
    pthread_mutex_lock(&walk->lock);
    while (take_work(walk, &unit, &index)) {
        pthread_mutex_unlock(&walk->lock);
        if (unit)
            measure_unit(worker, unit);
        else if (walk->deletes)
            delete_subtree(worker, index);
        else
            measure_subtree(worker, index);
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

/* Start up to `threads` threads, as many as the system allows, perhaps none; false without memory. */
bool start_walk(struct walk *walk, unsigned threads)
{
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    walk->workers = calloc(threads, sizeof *walk->workers);
    if (!walk->workers)
        return false;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&walk->over, &clock);
    pthread_condattr_destroy(&clock);
    pthread_cond_init(&walk->work, NULL);
    pthread_mutex_init(&walk->lock, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Threads inherit the mask: only Python's threads handle signals, which would also interrupt
       calls on NFS or FUSE. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; walk->threads < threads; walk->threads++) {
        struct worker *worker = &walk->workers[walk->threads];
        worker->walk = walk;
        if (pthread_create(&worker->thread, &attributes, run_worker, worker))
            break; /* a limit on threads, as with TasksMax= of systemd */
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return true;
}

/* Wait for the end of the walk, or a moment. Return how many subtrees are finished. */
size_t wait_for_progress(struct walk *walk, bool *over)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PROGRESS_NSECS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int error = 0;
    pthread_mutex_lock(&walk->lock);
    while (!(*over = is_stopped(walk) || walk->finished == walk->count) && error == 0)
        error = pthread_cond_timedwait(&walk->over, &walk->lock, &until);
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
        free(worker->levels);
        free(worker->path.bytes);
    }
    merge_links(&walk->links);
    for (struct unit *unit = walk->queue, *next; unit; unit = next) {
        next = unit->next;
        free_unit(unit);
    }
    free(walk->workers);
    pthread_mutex_destroy(&walk->lock);
    pthread_cond_destroy(&walk->work);
    pthread_cond_destroy(&walk->over);
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
