/* Wait a random time before each call on a path below $DELAYED, or relative to a directory there: between the check
   of a file and its use. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_NANOSECONDS = 4000000 };

static void wait_before(int directory, const char *path)
{
    const char *place = getenv("DELAYED");
    char link[32], target[PATH_MAX];
    if (place == NULL || path == NULL)
        return;
    if (path[0] != '/') {
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, target, sizeof target - 1);
        if (length < 0)
            return;
        target[length] = 0;
        path = target;
    }
    if (strncmp(path, place, strlen(place)) != 0)
        return;
    struct timespec pause = {0, random() % LONGEST_NANOSECONDS};
    nanosleep(&pause, NULL);
}

#define DELAYED(name, parameters, arguments, directory, path) \
    int name parameters \
    { \
        static int(*next) parameters; \
        if (next == NULL) \
            next = (int(*) parameters)dlsym(RTLD_NEXT, #name); \
        wait_before(directory, path); \
        return next arguments; \
    }

#define DELAYED_OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        static int (*next)(const char *, int, ...); \
        if (next == NULL) \
            next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        wait_before(AT_FDCWD, path); \
        return next(path, flags, mode); \
    }

#define DELAYED_OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) \
    { \
        static int (*next)(int, const char *, int, ...); \
        if (next == NULL) \
            next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        wait_before(directory, path); \
        return next(directory, path, flags, mode); \
    }

DELAYED_OPEN(open)
DELAYED_OPEN(open64)
DELAYED_OPENAT(openat)
DELAYED_OPENAT(openat64)
DELAYED(stat64, (const char *path, struct stat64 *found), (path, found), AT_FDCWD, path)
DELAYED(lstat64, (const char *path, struct stat64 *found), (path, found), AT_FDCWD, path)
DELAYED(fstatat64, (int directory, const char *path, struct stat64 *found, int flags), (directory, path, found, flags), directory, path)
DELAYED(access, (const char *path, int mode), (path, mode), AT_FDCWD, path)
DELAYED(chown, (const char *path, uid_t user, gid_t group), (path, user, group), AT_FDCWD, path)
DELAYED(fchownat, (int directory, const char *path, uid_t user, gid_t group, int flags), (directory, path, user, group, flags), directory, path)
DELAYED(chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
DELAYED(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
DELAYED(mkdirat, (int directory, const char *path, mode_t mode), (directory, path, mode), directory, path)
DELAYED(unlink, (const char *path), (path), AT_FDCWD, path)
DELAYED(unlinkat, (int directory, const char *path, int flags), (directory, path, flags), directory, path)
DELAYED(rename, (const char *path, const char *to), (path, to), AT_FDCWD, path)
DELAYED(renameat, (int directory, const char *path, int other, const char *to), (directory, path, other, to), directory, path)
