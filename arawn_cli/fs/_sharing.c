/* The work of a thread, and how threads share it: each begins one subtree after the other and walks it on its own. A thread
   without work is given half of the shallowest directories that another has still to enter, or a stretch of the files of one
   large directory. */

#include "_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- giving ---- */

/* A unit of work in a directory, without names yet; NULL when descriptors or memory do not suffice. */
struct unit *new_unit(struct worker *worker, const struct directory *in)
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

void drop_unit(struct unit *unit)
{
    release(unit->base);
    free(unit->files.bytes);
    free(unit);
}

void hand_over(struct worker *worker, struct unit *unit)
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

/* Gives half of the shallowest directories that are still to be entered to a thread without work. */
void share_directories(struct worker *worker)
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

/* ---- beginning ---- */

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

/* ---- one after the other ---- */

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
void end_walk(struct walk *walk)
{
    walk->over = true;
    pthread_cond_broadcast(&walk->work);
    pthread_cond_signal(&walk->end);
}

void *work(void *argument)
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
    end_walk(walk);
    pthread_mutex_unlock(&walk->lock);
    return NULL;
}
