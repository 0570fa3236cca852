/* What a walk tells one by one, beside its sums: files of several names, of which others may be met elsewhere, failed calls, and
   where other filesystems begin. */

#include "_walk.h"

#include <errno.h>
#include <stdlib.h>

enum {
    MERGED = 1000, /* links to files of several names, at the least, between two searches for those to the same file */
};

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

void find(struct worker *worker, const char *operation, const struct directory *at, const char *name, int number)
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
void merge(struct list *links)
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

void note_link(struct worker *worker, const struct stat *status, uint64_t allocated)
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
