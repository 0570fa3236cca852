/* A directory on the way of a thread, kept as long as anything below it can still be told of, and the path that it tells. */

#include "_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct directory *new_directory(struct walk *walk, struct directory *parent, const char *name, int descriptor,
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

void close_directory(struct directory *directory)
{
    if (directory->descriptor >= 0)
        close(directory->descriptor);
    directory->descriptor = -1;
}

void release(struct directory *directory)
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
char *path_of(const struct directory *directory, const char *name)
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
